"""Which records of a damaged file can still be read: the file's own check names pages, a person needs records."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from runtime.errors import LedgerError
from runtime.ledger.anchor import read_anchor
from runtime.ledger.problem import Problem
from runtime.ledger.schema import COLUMNS, SELECT

#: Lines of SQLite's own report that are passed on.
MOST_LINES = 20
#: Steps in which a table is searched: what cannot be read is named to this part of the ledger, or to the record.
_STEPS = 4096


def find_damage(connection: sqlite3.Connection) -> list[Problem]:
    """Return what SQLite says about its own pages and indexes, and the records that cannot be read; empty: it is sound.

    A query over a damaged file answers anything, so nothing else should be asked of one. May raise ``sqlite3.Error``
    where not even this can be asked.
    """
    try:
        rows = connection.execute(f"PRAGMA integrity_check({MOST_LINES})").fetchall()
    except sqlite3.DatabaseError as error:
        if _last(connection) is None:  # nothing can be read at all
            raise
        rows = [(str(error),)]
    if rows == [("ok",)]:
        return []
    lines = [line for (text,) in rows for line in str(text).splitlines() if not line.startswith("***")]
    return [*(Problem("file", 0, line) for line in lines[:MOST_LINES]), *_lost(connection)]


def _lost(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Name the ranges of records that cannot be read, table by table, and say so where all can."""
    whole = True
    for table in COLUMNS:
        for first, last in _ranges(connection, table):
            whole = False
            records = f"record {first}" if first == last else f"those of {first} to {last}"
            yield Problem(
                "file",
                first,
                f"{table}: expected to read all, found {records} on a damaged page; the others can be read",
            )
    if whole:
        yield Problem(
            "file", 0, "every record can still be read, with `edgead ledger export`: an index or a free page is damaged"
        )


def _ranges(connection: sqlite3.Connection, table: str) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of the spans of record numbers that a table cannot give, next to each other joined."""
    try:
        first = read_anchor(connection).record + 1
    except (sqlite3.Error, LedgerError):  # then the whole of it is searched
        first = 1
    last = _last(connection) or 0
    step = max(1, (last - first + 1) // _STEPS)
    bad: tuple[int, int] | None = None
    todo = [(first, last)]
    while todo:
        begin, end = todo.pop()
        if begin > end or _readable(connection, table, begin, end):
            continue
        if end - begin >= step:
            middle = (begin + end) // 2
            todo += [(middle + 1, end), (begin, middle)]
        elif bad is not None and bad[1] + 1 == begin:
            bad = (bad[0], end)
        else:
            if bad is not None:
                yield bad
            bad = (begin, end)
    if bad is not None:
        yield bad


def _readable(connection: sqlite3.Connection, table: str, begin: int, end: int) -> bool:
    try:
        # LIMIT: to look for one row more would touch the next page, which may be the damaged one.
        for _ in connection.execute(f"{SELECT[table]} LIMIT ?", (begin - 1, end, end - begin + 1)):
            pass
    except sqlite3.Error:
        return False
    return True


def _last(connection: sqlite3.Connection) -> int | None:
    """Return the last record as the head says it, or the most a table admits to; None where none can be read."""
    for question in ("SELECT record FROM head", *(f"SELECT max(record) FROM {table}" for table in COLUMNS)):  # noqa: S608 -- a constant's names
        try:
            row = connection.execute(question).fetchone()
        except sqlite3.Error:
            continue
        if row is not None and isinstance(row[0], int):
            return row[0]
    return None
