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


@contextmanager
def told(action: str, path: Path) -> Iterator[None]:
    """Turn ``sqlite3.Error`` and ``OSError`` raised inside into ``LedgerFull`` or ``LedgerError``."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        raise _named(action, path, str(error), no_room=code in _NO_ROOM) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise _named(action, path, reason, no_room=error.errno in _NO_ROOM_ERRNO) from error


def _named(action: str, path: Path, reason: str, *, no_room: bool) -> LedgerError:
    if no_room:
        return LedgerFull(f"cannot {action} {path}: {reason}; remove evidence or free the disk, then commit again")
    return LedgerError(f"cannot {action} {path}: {reason}; look at it with `edgead ledger check`")
