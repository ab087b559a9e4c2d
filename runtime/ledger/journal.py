"""Records chained in memory and written in one transaction: the part of the writer that knows SQLite, and no rules.

``append``, ``note`` and ``change`` only touch memory. ``commit`` writes all of it or nothing, and keeps what it could
not write: the next commit writes it, in the same order with the same hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.ledger.chain import Head, link
from runtime.ledger.errors import LedgerFull, told
from runtime.ledger.opening import Start, load
from runtime.ledger.schema import COLUMNS, INSERT, Row, open_writer, signed
from runtime.ledger.totals import Event, counted, spell, spell_totals


class Journal:
    """An open ledger file and what waits to be written to it.

    ``head``, ``seq`` and ``totals`` are as of the last record taken; ``written`` and ``written_seq`` as of the last
    commit. ``full``: the last commit found no room.
    """

    def __init__(self, path: Path, station: str, clock: Callable[[], int]) -> None:
        """Open or create the file; ``clock`` gives UTC nanoseconds. Raises ``LedgerError``."""
        self.path = path
        self._clock = clock
        self.connection = open_writer(path)
        try:
            with told("read", path):
                self.start: Start = load(self.connection, path, station)
        except BaseException:
            self.connection.close()
            raise
        self.head = self.written = self.start.head
        self.seq = self.written_seq = self.start.seq
        self.totals = self.start.totals
        self.full = False
        self.rows: dict[str, list[Row]] = {table: [] for table in COLUMNS}
        self._changes: dict[object, tuple[str, tuple[Any, ...]]] = {}
        if self.start.fresh:
            self.change("INSERT INTO head VALUES (1, ?, 0, 0, x'', '{}')", station)

    @property
    def unwritten(self) -> int:
        """Records that wait for the next commit."""
        return sum(map(len, self.rows.values()))

    @property
    def pending(self) -> bool:
        """Whether the next commit has something to write."""
        return self.written != self.head or bool(self._changes)

    def now_ns(self) -> int:
        """Return the time, UTC nanoseconds, as it is stored."""
        return signed(self._clock())

    def append(self, table: str, *values: Any) -> int:
        """Chain one record and return its number. Raises ``LedgerError`` for a value the chain cannot carry."""
        record = self.head.record + 1
        digest = link(self.head.hash, table, record, values)
        row = (record, *values, digest)
        for name, number in counted(table, row):
            self.totals[name] += number
        self.rows[table].append(row)
        self.head = Head(record, digest)
        return record

    def note(self, kind: Event, detail: Mapping[str, Any]) -> int:
        """Chain an event; ``detail`` is a JSON object. Returns its record number."""
        return self.append("events", kind.value, self.now_ns(), spell(detail))

    def change(self, statement: str, *values: Any, instead_of: str | None = None) -> None:
        """Have the next commit also run a statement, after the new records are in.

        ``instead_of``: a name of the change; one of the same name that still waits is forgotten, so that a full disk
        does not fill the memory.
        """
        key = instead_of or object()
        self._changes.pop(key, None)
        self._changes[key] = (statement, values)

    def commit(self) -> None:
        """Write everything taken since the last commit. Raises ``LedgerFull`` or ``LedgerError``, and keeps it then."""
        if not self.pending:
            return
        try:
            self._write()
        except Exception:
            # Entered only here: two context managers take a cold processor as long as a third of the transaction.
            with self._noting_full(), told("write to", self.path):
                raise
        self.full = False
        self.written, self.written_seq = self.head, self.seq
        for rows in self.rows.values():
            rows.clear()
        self._changes.clear()

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file now, and sync the disk. Raises ``LedgerFull`` or ``LedgerError``."""
        with self._noting_full(), told("checkpoint", self.path):
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    @contextmanager
    def _noting_full(self) -> Iterator[None]:
        try:
            yield
        except LedgerFull:
            if not self.full:
                self.full = True
                self.note(Event.DISK_FULL, {"unwritten": self.unwritten})
            raise

    def _write(self) -> None:
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for table, rows in self.rows.items():
                if rows:
                    connection.executemany(INSERT[table], rows)
            for statement, values in self._changes.values():
                connection.execute(statement, values)
            connection.execute(
                "UPDATE head SET record = ?, seq = ?, hash = ?, totals = ?",
                (self.head.record, self.seq, self.head.hash, spell_totals(self.totals)),
            )
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
