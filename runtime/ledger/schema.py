"""The tables of a ledger file, and how a file is opened for writing and for reading.

Five tables hold chained records; ``record`` numbers them from 1 without a gap over all five, and ``hash`` links each to
the one before (``chain.py``). They are only ever added to, and removed from the old end (``retention.py``). Two tables
change in place and are not chained: ``head`` (where the chain ends, and the totals) and ``cursors`` (the outbox).
``evidence.removed_by`` is not chained either; the event it names is.

SQLite's integers are signed; unsigned 64-bit fields of the wire are stored as two's complement (``signed``), so every
number below 2**63 looks like itself.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from runtime.errors import LedgerError
from runtime.ledger.errors import told

#: Marks the file for tools like file(1): "EdLg".
APPLICATION_ID = 0x45644C67
SCHEMA_VERSION = 1
#: Seconds to wait for a lock while opening: a reader may be recovering a killed writer's log.
BUSY_S = 5.0
#: Milliseconds to wait for one afterwards. Nobody should hold one: the host must not stand still for who does.
BUSY_COMMIT_MS = 100
#: A commit writes whole pages to the log, about ten for one inspection: 41 KB with SQLite's 4096, 13 KB with this, at
#: the same size of the ledger. A flash card lives three times as long.
PAGE_BYTES = 1024
#: A write-ahead log of this size is begun anew at the next chance: at 50 parts a second it takes six seconds to fill.
WAL_BYTES = 4 * 1024 * 1024

Row = tuple[Any, ...]

#: The chained columns of each table, in chain order, between ``record`` and ``hash``.
COLUMNS: dict[str, tuple[str, ...]] = {
    "triggers": ("camera", "trigger_id", "part_id", "received_ns", "deadline_ns"),
    "frames": ("camera", "session", "frame_id", "received_ns", "trigger", "dropped"),
    "inspections": (
        *("seq", "trigger", "framed", "result_id", "camera", "part_id", "verdict", "error", "score", "product"),
        *("detector", "detector_version", "template", "received_ns", "published_ns", "latency_us", "header"),
    ),
    "evidence": ("seq", "verdict", "bytes", "sha256", "kept_ns"),
    "events": ("kind", "at_ns", "detail"),
}
#: When a record of each table came to be, UTC nanoseconds: what retention by age looks at.
TIME_COLUMN = {
    "triggers": "received_ns",
    "frames": "received_ns",
    "inspections": "published_ns",
    "evidence": "kept_ns",
    "events": "at_ns",
}
INSERT = {
    table: f"INSERT INTO {table} (record, {', '.join(names)}, hash) VALUES ({', '.join('?' * (len(names) + 2))})"  # noqa: S608 -- built from the constants above
    for table, names in COLUMNS.items()
}
#: Oldest first; between records ? (excluded) and ? (included).
SELECT = {
    table: f"SELECT record, {', '.join(names)}, hash FROM {table} WHERE record > ? AND record <= ? ORDER BY record"  # noqa: S608 -- built from the constants above
    for table, names in COLUMNS.items()
}

_TABLES = """
CREATE TABLE triggers (record INTEGER PRIMARY KEY, camera TEXT NOT NULL, trigger_id INTEGER, part_id TEXT NOT NULL,
    received_ns INTEGER NOT NULL, deadline_ns INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE TABLE frames (record INTEGER PRIMARY KEY, camera TEXT NOT NULL, session INTEGER NOT NULL,
    frame_id INTEGER NOT NULL, received_ns INTEGER NOT NULL, "trigger" INTEGER, dropped TEXT NOT NULL,
    hash BLOB NOT NULL);
CREATE TABLE inspections (record INTEGER PRIMARY KEY, seq INTEGER NOT NULL UNIQUE, "trigger" INTEGER NOT NULL UNIQUE,
    framed INTEGER NOT NULL, result_id TEXT NOT NULL, camera TEXT NOT NULL, part_id TEXT NOT NULL,
    verdict INTEGER NOT NULL, error TEXT NOT NULL, score REAL, product TEXT NOT NULL, detector TEXT NOT NULL,
    detector_version TEXT NOT NULL, template TEXT NOT NULL, received_ns INTEGER NOT NULL,
    published_ns INTEGER NOT NULL, latency_us INTEGER NOT NULL, header BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE evidence (record INTEGER PRIMARY KEY, seq INTEGER NOT NULL UNIQUE, verdict INTEGER NOT NULL,
    bytes INTEGER NOT NULL, sha256 BLOB NOT NULL, kept_ns INTEGER NOT NULL, hash BLOB NOT NULL, removed_by INTEGER);
CREATE TABLE events (record INTEGER PRIMARY KEY, kind TEXT NOT NULL, at_ns INTEGER NOT NULL, detail TEXT NOT NULL,
    hash BLOB NOT NULL);
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), station TEXT NOT NULL, record INTEGER NOT NULL,
    seq INTEGER NOT NULL, hash BLOB NOT NULL, totals TEXT NOT NULL);
CREATE TABLE cursors (name TEXT PRIMARY KEY, acked INTEGER NOT NULL, registered_ns INTEGER NOT NULL,
    acked_ns INTEGER NOT NULL, gap_from INTEGER, gap_to INTEGER);
CREATE INDEX trigger_ids ON triggers (camera, trigger_id, record) WHERE trigger_id IS NOT NULL;
CREATE UNIQUE INDEX frame_keys ON frames (camera, session, frame_id) WHERE "trigger" IS NOT NULL;
CREATE UNIQUE INDEX frame_triggers ON frames ("trigger") WHERE "trigger" IS NOT NULL;
CREATE INDEX evidence_kept ON evidence (verdict, seq, kept_ns, bytes) WHERE removed_by IS NULL;
CREATE INDEX anchors ON events (record) WHERE kind = 'pruned';
"""


def signed(number: int) -> int:
    """Return an integer of -2**63 .. 2**64 - 1 as SQLite can hold it."""
    return number - 2**64 if number >= 2**63 else number


def unsigned(number: int) -> int:
    """Return the integer of 0 .. 2**64 - 1 that ``signed`` stored."""
    return number + 2**64 if number < 0 else number


def open_writer(path: Path) -> sqlite3.Connection:
    """Open or create a ledger file for its one writer. Raises ``LedgerError``.

    ``synchronous=NORMAL``: a commit is in the kernel's hands when it returns, so killing the process loses nothing; the
    checkpointer syncs it to the disk, so a power cut loses what was committed since its last turn.
    """
    with told("open", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size == 0:
            _begin(path)
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")  # it would sync the disk inside the writer's commit
            connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
            if _version(connection, path) == 0:
                _create(connection)
            connection.execute(f"PRAGMA busy_timeout={BUSY_COMMIT_MS}")
        except BaseException:
            connection.close()
            raise
    return connection


def _begin(path: Path) -> None:
    """Make a new ledger under another name: one killed here leaves none, not a file that only a writer can repair."""
    new = path.with_name(f"{path.name}.new")
    for leftover in ("", "-journal", "-wal", "-shm"):
        new.with_name(new.name + leftover).unlink(missing_ok=True)
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        _create(connection)
    new.replace(path)


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a ledger file for reading, beside its running writer or after it. Raises ``LedgerError``."""
    if not path.is_file():
        raise LedgerError(f"expected a ledger at {path}, found none; is this the station's state folder?")
    with told("read", path):
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        connection.text_factory = _text
        try:
            version = _version(connection, path)
        except BaseException:
            connection.close()
            raise
    if version == 0:
        connection.close()
        raise LedgerError(f"{path}: expected a ledger, found an empty database; nothing was recorded yet?")
    return connection


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return 0 for an empty database, else ``SCHEMA_VERSION``; anything else is refused."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    mark = int(connection.execute("PRAGMA application_id").fetchone()[0])
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if version == mark == 0 and empty:
        return 0
    if (version, mark) != (SCHEMA_VERSION, APPLICATION_ID):
        raise LedgerError(
            f"{path}: expected a ledger of version {SCHEMA_VERSION}, found version {version} (mark {mark:#x}); "
            "use the edgead that wrote it, or move the file aside"
        )
    return version


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables in one transaction: a writer killed here leaves an empty database or a whole one."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _text(data: bytes) -> str:
    # A damaged text must be read to be named: its hash no longer fits.
    return data.decode("utf-8", "replace")
