"""Taking up a ledger where its last run ended."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import LedgerError
from runtime.ledger import lookup
from runtime.ledger.chain import GENESIS, Head
from runtime.ledger.errors import told
from runtime.ledger.records import OpenTrigger


@dataclass(frozen=True, slots=True)
class Start:
    """Where a ledger stands as it is opened; ``fresh``: nothing recorded yet; ``clean``: the last run closed it."""

    head: Head
    seq: int
    totals: Counter[str]
    open_triggers: tuple[OpenTrigger, ...]
    clean: bool
    fresh: bool


def load(connection: sqlite3.Connection, path: Path, station: str) -> Start:
    """Read where the ledger stands. Raises ``LedgerError`` if it is another station's, or does not end as it says.

    Only the end is looked at, so that a station starts at once however long its ledger is; ``check`` reads it all.
    """
    row = connection.execute("SELECT station, record, seq, hash, totals FROM head").fetchone()
    named, record, seq, digest, counts = row or (station, 0, 0, GENESIS, "{}")
    head, totals = Head(record, digest), _totals(counts, path)
    if named != station:
        raise LedgerError(f"{path}: expected the ledger of station {station!r}, found that of {named!r}")
    last, clean = lookup.last_record(connection)
    if last != head:
        raise LedgerError(
            f"{path}: expected its last record to be {head}, found {last}: it was changed from outside; "
            "see what with `edgead ledger check`, then move the file aside: a new ledger begins"
        )
    waiting = lookup.open_triggers(connection, totals["triggers"] - totals["inspections"])
    return Start(head, seq, totals, tuple(waiting), clean, row is None)


def _totals(text: object, path: Path) -> Counter[str]:
    """Read the totals of the head, which say how many triggers are open. Raises ``LedgerError`` for damaged ones."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(type(number) is int for number in found.values()):
        raise LedgerError(
            f"{path}: expected the totals of the ledger in its head, found {str(text)[:60]!r}: it was changed from "
            "outside; see what with `edgead ledger check`, then move the file aside: a new ledger begins"
        )
    return Counter(found)


def is_held(path: Path) -> bool:
    """Tell whether a process writes the ledger at ``path`` now. Changes nothing. Raises ``LedgerError``."""
    lock = _lock_of(path)
    if not lock.exists():
        return False
    with told("open", lock):
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)  # and with it the lock
    return False


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def hold(path: Path) -> int:
    """Take the one writer's lock of a ledger, which the kernel drops when its holder dies; return its handle.

    Raises ``LedgerError`` at once if another process holds it.
    """
    lock = _lock_of(path)
    with told("open", lock):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise LedgerError(
            f"expected to be the only writer of {path}, found another; see who with 'fuser {lock}'"
        ) from error
    return handle
