"""The durable outbox: who subscribes by name, what each has acknowledged, and what is still owed to it.

The results themselves are the ledger's inspections; a subscriber is a cursor into them. No socket here: the caller
sends ``pending`` results and hands acknowledgements in. Rules:

* Delivery is at least once, in the order of ``seq``. An acknowledgement of n is one of everything up to n; it is
  durable with the ledger's next commit, and a killed host sends again what was acknowledged since.
* Only committed results are pending: nothing is sent that a killed host would not know.
* A subscriber away for longer than the ledger keeps records gets a ``Gap`` first, and keeps getting it until it
  acknowledges it (``to_seq`` or anything later). The ledger records every gap.
* Cursors are independent: a subscriber that never acknowledges costs its own lag and one row.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from runtime.errors import LedgerError
from runtime.ledger.anchor import read_anchor
from runtime.ledger.errors import LedgerFull, told
from runtime.ledger.schema import signed, unsigned
from runtime.ledger.totals import Event
from runtime.ledger.writer import Ledger
from runtime.wire.header import is_name


@dataclass(frozen=True, slots=True)
class Gap:
    """Inspections ``from_seq``..``to_seq`` (both included) are gone: the subscriber was away for too long."""

    from_seq: int
    to_seq: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One result owed to a subscriber. ``header``: the result's header part, byte for byte as first sent."""

    seq: int
    camera: str
    published_ns: int
    header: bytes


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a subscriber is owed next: a gap or none, then results in order of ``seq``."""

    gap: Gap | None
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind a subscriber is. ``oldest_ns``: publication (UTC) of its first unacknowledged result, or None."""

    name: str
    acked: int
    results: int
    oldest_ns: int | None
    gap: Gap | None


class Outbox:
    """The cursors of one ledger; used by the ledger's thread. Every method may raise ``LedgerError``."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._ledger = ledger
        self._clock = clock
        self._acked: dict[str, int] = {}  # acknowledgements not committed yet, too
        self._left: set[str] = set()  # unregistered, which may not be committed yet

    def names(self) -> list[str]:
        """Return the registered subscribers, by name."""
        with told("read", self._ledger.path):
            rows = self._ledger.journal.connection.execute("SELECT name FROM cursors ORDER BY name").fetchall()
        return [name for (name,) in rows if name not in self._left]

    def register(self, name: str, *, from_oldest: bool = False) -> bool:
        """Begin to owe a subscriber results: those after now, or all that are kept. False if it is registered already.

        ``name`` is as for cameras (``header.is_name``). Commits.
        """
        if not is_name(name):
            raise LedgerError(f"expected a name of 1..64 of A-Z a-z 0-9 _ -, found {name[:80]!r}")
        if name in self.names():
            return False
        self._ledger.commit()
        self._left.discard(name)  # that it left is written now
        with told("read", self._ledger.path):
            start = read_anchor(self._ledger.journal.connection).seq if from_oldest else self._ledger.written_seq
        now_ns = signed(self._clock())
        # OR IGNORE: after a commit that failed on a full disk, the change of an earlier attempt still waits.
        insert = "INSERT OR IGNORE INTO cursors VALUES (?, ?, ?, ?, NULL, NULL)"
        self._ledger.journal.change(insert, name, start, now_ns, now_ns)
        self._ledger.note(Event.REGISTERED, {"subscriber": name, "after_seq": start})
        self._ledger.commit()
        return True

    def unregister(self, name: str) -> None:
        """Owe a subscriber nothing more. Commits; on a full disk it is written later, and holds all the same.

        A host killed before it is written owes the subscriber its results again, and nobody asks for them.
        """
        cursor = self._cursor(name)
        self._ledger.journal.change("DELETE FROM cursors WHERE name = ?", name)
        self._ledger.note(Event.UNREGISTERED, {"subscriber": name, "acked": cursor.acked})
        self._acked.pop(name, None)
        self._left.add(name)
        with suppress(LedgerFull):
            self._ledger.commit()

    def ack(self, name: str, seq: int) -> None:
        """Take everything up to ``seq`` as received; durable with the next commit. An older ``seq`` changes nothing.

        Raises ``LedgerError`` for a result that was never committed.
        """
        self._cursor(name)
        if not 0 <= seq <= self._ledger.written_seq:
            raise LedgerError(f"subscriber {name}: expected an acknowledgement of 0..{self._ledger.written_seq}, "
                              f"found {seq}; did it subscribe to another station?")  # fmt: skip
        upto = self._acked[name] = max(seq, self._acked.get(name, 0))
        self._ledger.journal.change(
            "UPDATE cursors SET acked = max(acked, ?), acked_ns = ?, "
            "gap_from = CASE WHEN gap_to <= ? THEN NULL ELSE gap_from END, "
            "gap_to = CASE WHEN gap_to <= ? THEN NULL ELSE gap_to END WHERE name = ?",
            *(upto, signed(self._clock()), upto, upto, name),
            instead_of=f"ack {name}",
        )

    def pending(self, name: str, limit: int, *, after: int = 0) -> Backlog:
        """Return up to ``limit`` results owed to a subscriber, oldest first.

        ``after``: the last ``seq`` already on its way to it, so that a window of unacknowledged results can be kept.
        """
        cursor = self._cursor(name)
        with told("read", self._ledger.path):
            rows = self._ledger.journal.connection.execute(
                "SELECT seq, camera, published_ns, header FROM inspections WHERE seq > ? ORDER BY seq LIMIT ?",
                (max(cursor.acked, after), limit),
            ).fetchall()
        return Backlog(cursor.gap, tuple(Delivery(row[0], row[1], unsigned(row[2]), bytes(row[3])) for row in rows))

    def lag(self, name: str) -> Lag:
        """Return how far behind a subscriber is."""
        cursor = self._cursor(name)
        with told("read", self._ledger.path):
            row = self._ledger.journal.connection.execute(
                "SELECT published_ns FROM inspections WHERE seq > ? ORDER BY seq LIMIT 1", (cursor.acked,)
            ).fetchone()
        oldest_ns = None if row is None else unsigned(row[0])
        return Lag(name, cursor.acked, self._ledger.written_seq - cursor.acked, oldest_ns, cursor.gap)

    def _cursor(self, name: str) -> _Cursor:
        if name in self._left:
            raise _unknown(name)
        with told("read", self._ledger.path):
            return _read_cursor(self._ledger.journal.connection, name, self._acked.get(name, 0))


@dataclass(frozen=True, slots=True)
class _Cursor:
    acked: int
    gap: Gap | None


def _read_cursor(connection: sqlite3.Connection, name: str, acked_since: int) -> _Cursor:
    row = connection.execute("SELECT acked, gap_from, gap_to FROM cursors WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise _unknown(name)
    told_of = row[2] is None or row[2] <= acked_since
    return _Cursor(max(row[0], acked_since), None if told_of else Gap(row[1], row[2]))


def _unknown(name: str) -> LedgerError:
    return LedgerError(f"expected a registered subscriber, found {name[:80]!r}: register it first")
