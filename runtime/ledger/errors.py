"""What goes wrong with a ledger's disk, as two exceptions: one that making room mends, one that it does not."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import LedgerError

#: SQLite's result codes for "no room": the file could not grow, or the memory map beside it could not.
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_NO_ROOM_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT})


class LedgerFull(LedgerError):  # noqa: N818 -- a state of the disk, as in "disk full"; the family's names end in Error
    """The disk has no room. Nothing is lost: what was not written waits in memory; make room and commit again."""


#: What to do with a file that no command can read.
_BEYOND = "it is damaged: copy its folder, move it away, and the station begins a new ledger"
#: What to do, by what SQLite or the system says. A code that is not here is told as it is.
_ADVICE = {
    (sqlite3.SQLITE_CORRUPT,): "it is damaged: `edgead ledger check` names the records concerned",
    (sqlite3.SQLITE_NOTADB,): _BEYOND,
    (sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH): (
        "look whether the file and its folder are there and belong to the user who runs this"
    ),
    (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED): "another program holds it: close that one",
    (sqlite3.SQLITE_IOERR,): "look at the disk: the system log tells what it answered",
}
_ADVICE_ERRNO = {
    (errno.EACCES, errno.EPERM): "look whether file and folder belong to the user who runs this",
    (errno.EROFS,): "the disk is mounted read-only: the system log tells why",
    (errno.EIO, errno.ENXIO, errno.ENODEV): "look at the disk: the system log tells what it answered",
    (errno.ENOENT,): "it was removed from outside: `edgead ledger check` names what is missing",
    (errno.EMFILE, errno.ENFILE): "too many files are open: raise the limit of the service",
}
#: The action of a check, which must not send its reader to itself.
CHECKING = "check"


@contextmanager
def told(action: str, path: Path) -> Iterator[None]:
    """Turn ``sqlite3.Error`` and ``OSError`` raised inside into ``LedgerFull`` or ``LedgerError``, with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code in _NO_ROOM:
            raise _full(action, path, str(error)) from error
        primary = None if code is None else code & 0xFF  # extended codes carry the primary one in their low byte
        raise _failed(action, path, str(error), _advice(_ADVICE, primary)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_ROOM_ERRNO:
            raise _full(action, path, reason) from error
        raise _failed(action, path, reason, _advice(_ADVICE_ERRNO, error.errno)) from error


def _advice(table: dict[tuple[int, ...], str], code: int | None) -> str:
    return next((advice for codes, advice in table.items() if code in codes), "")


def _full(action: str, path: Path, reason: str) -> LedgerFull:
    return LedgerFull(f"cannot {action} {path}: {reason}; remove evidence or free the disk, then commit again")


def _failed(action: str, path: Path, reason: str, advice: str) -> LedgerError:
    if action == CHECKING and "ledger check" in advice:
        advice = _BEYOND
    return LedgerError(f"cannot {action} {path}: {reason}" + (f"; {advice}" if advice else ""))
