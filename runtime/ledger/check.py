"""Proving a ledger: every record is there, unchanged, in order, and everything that came in is accounted for.

Read in one pass and one snapshot, with memory for open triggers and removed evidence only, beside a running writer or
after it. A problem is named once where it can be: after a changed record the chain is taken up from the stored hash.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from runtime.errors import LedgerError
from runtime.inspection import Verdict
from runtime.ledger import evidence
from runtime.ledger.accounts import Accounts
from runtime.ledger.anchor import Anchor, read_anchor
from runtime.ledger.chain import Head, link
from runtime.ledger.damage import find_damage
from runtime.ledger.errors import CHECKING, told
from runtime.ledger.problem import Problem
from runtime.ledger.records import Kept
from runtime.ledger.schema import COLUMNS, SELECT, Row, open_reader

#: Problems named by one check; a file damaged all over needs no longer list.
MOST_PROBLEMS = 200
#: A trigger is missing its inspection this long after its deadline: the commit that holds it may be under way.
GRACE_NS = 2 * 10**9
_ALL = (2**63) - 1


def check(
    path: Path, *, folder: Path | None = None, witness: Head | None = None, now_ns: int | None = None
) -> list[Problem]:
    """Return everything that is wrong with the ledger at ``path``; an empty list proves it.

    ``folder``: of the evidence, whose every byte is then compared too. ``witness``: a head written down earlier, which
    the chain must still contain. ``now_ns``: UTC, by which a trigger past its deadline is missing its inspection.
    Raises ``LedgerError`` where there is no file: nothing was proven, and nothing found wrong either.
    """
    if not path.is_file():
        open_reader(path)  # raises, in the words of every other command
    now_ns = time.time_ns() if now_ns is None else now_ns
    try:
        with closing(open_reader(path)) as connection, told(CHECKING, path):
            connection.execute("BEGIN")  # one snapshot for all questions
            problems = find_damage(connection) or list(_bounded(_walk(connection, witness, now_ns)))
            if folder is not None and not problems:
                problems = list(_bounded(_evidence(connection, path, folder)))
    except LedgerError as error:
        return [Problem("file", 0, str(error))]
    return problems


def _walk(connection: sqlite3.Connection, witness: Head | None, now_ns: int) -> Iterator[Problem]:
    head_row = connection.execute("SELECT station, record, seq, hash, totals FROM head").fetchone()
    if head_row is None:
        yield Problem("head", 0, "expected the head of the chain, found none")
        return
    anchor = read_anchor(connection)
    accounts = Accounts(anchor)
    end = _Chain(anchor, witness)
    for table, row in _in_order(connection, anchor.record):
        yield from end.take(table, row)
        yield from accounts.take(table, row)
    station, record, seq, digest, totals = head_row
    if (record, digest) != (end.record, end.hash):
        yield Problem("missing", record, f"expected the chain to end with record {record}, found its end at {end.head}")
    yield from end.unproven()
    yield from accounts.settle(station, seq, _totals(totals), now_ns - GRACE_NS)
    for record, seq_of, removed_by in connection.execute("SELECT record, seq, removed_by FROM evidence"):
        if removed_by != (event := accounts.removed.get(seq_of)):
            yield Problem(
                "evidence", record, f"expected evidence of {seq_of} removed by record {event}, found {removed_by}"
            )


def _in_order(connection: sqlite3.Connection, after: int) -> Iterator[tuple[str, Row]]:
    """Yield every chained row with its table, in the order of the chain."""

    def rows(table: str) -> Iterator[tuple[int, str, Row]]:
        for row in connection.execute(SELECT[table], (after, _ALL)):
            yield row[0], table, row

    for _, table, row in heapq.merge(*(rows(table) for table in COLUMNS), key=lambda each: each[:2]):
        yield table, row


class _Chain:
    """The links, from the anchor on."""

    def __init__(self, anchor: Anchor, witness: Head | None) -> None:
        self.record, self.hash = anchor.record, anchor.hash
        self._witness = witness
        self._seen = witness is None or witness == self.head

    @property
    def head(self) -> Head:
        return Head(self.record, self.hash)

    def take(self, table: str, row: Row) -> Iterator[Problem]:
        record, *values, digest = row
        if record != self.record + 1:
            kind, found = ("missing", f"found {record} after it") if record > self.record else ("twice", "found two")
            yield Problem(kind, self.record + 1, f"expected record {self.record + 1}, {found} in {table}")
        elif _link(self.hash, table, record, tuple(values)) != digest:
            yield Problem("changed", record, f"expected {table} record {record} to fit its hash, found it changed")
        self.record, self.hash = record, digest
        self._seen = self._seen or self._witness == self.head

    def unproven(self) -> Iterator[Problem]:
        if self._witness is not None and not self._seen:
            yield Problem(
                "witness",
                self._witness.record,
                f"expected record {self._witness} as witnessed, found another chain, or retention has removed it",
            )


def _link(previous: bytes, table: str, record: int, values: tuple[object, ...]) -> bytes:
    try:
        return link(previous, table, record, values)
    except (LedgerError, TypeError):  # a value no writer can have chained
        return b""


def _totals(text: str) -> Counter[str]:
    try:
        return Counter(json.loads(text))
    except (TypeError, ValueError):
        return Counter()


def _bounded(problems: Iterator[Problem]) -> Iterator[Problem]:
    for number, problem in enumerate(problems):
        if number == MOST_PROBLEMS:
            yield Problem("more", 0, f"found more than {MOST_PROBLEMS} problems; these are the first")
            return
        yield problem


def _evidence(connection: sqlite3.Connection, path: Path, folder: Path) -> Iterator[Problem]:
    rows = connection.execute("SELECT record, seq, verdict, bytes, sha256 FROM evidence WHERE removed_by IS NULL")
    for record, seq, verdict, size, digest in rows:
        wrong = evidence.damage(folder, Kept(seq, Verdict(verdict), size, digest))
        if wrong and not _removed_since(path, seq):
            yield Problem("evidence", record, wrong)


def _removed_since(path: Path, seq: int) -> bool:
    """Tell whether a running station removed the evidence after our snapshot was taken."""
    with closing(open_reader(path)) as fresh:
        row = fresh.execute("SELECT removed_by FROM evidence WHERE seq = ?", (seq,)).fetchone()
        return row is None or row[0] is not None
