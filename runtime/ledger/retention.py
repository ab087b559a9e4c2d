"""Removing records from the old end of the chain, so that a ledger has a size and still proves itself.

Records go in the order they came, whatever their verdict: a hole in the middle could not be told from a deletion. What
differs by verdict is the evidence (``removal.py``), which is where the bytes are. What goes is summed up in an anchor
(``anchor.py``). A subscriber that has not acknowledged what goes gets a gap, recorded and told to it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from runtime.ledger.anchor import Anchor, read_anchor
from runtime.ledger.errors import told
from runtime.ledger.removal import DAY_NS, forget
from runtime.ledger.schema import COLUMNS, SELECT, TIME_COLUMN
from runtime.ledger.totals import Event, column, counted
from runtime.ledger.writer import Ledger

#: Records removed in one call: about ten milliseconds of the writer's thread.
RECORDS_PER_CALL = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of the past the ledger holds in rows. Evidence has its own policy; it goes with its row at latest."""

    most_ns: int = 365 * DAY_NS
    """Age of a record beyond which it goes, in nanoseconds."""
    most_bytes: int = 8 * 1024**3
    """Size of the ledger in use beyond which the oldest records go, whatever their age."""


def prune(ledger: Ledger, folder: Path, retention: Retention, now_ns: int, *, limit: int = RECORDS_PER_CALL) -> int:
    """Remove up to ``limit`` records from the old end, those of ``retention``; return how many. Commits.

    ``folder``: of the evidence, which goes with its inspection. Call again at the next quiet moment while it returns
    any. Nothing as young as the oldest open trigger ever goes. Raises ``LedgerFull`` or ``LedgerError``; then nothing
    was removed that is not recorded, and calling again is safe.
    """
    ledger.commit()
    connection = ledger.journal.connection
    with told("read", ledger.path):
        anchor = read_anchor(connection)
        last = _cut(ledger, anchor, retention, now_ns, limit)
        if last <= anchor.record:
            return 0
        moved = _moved(connection, anchor, last)
        rows = connection.execute(
            "SELECT seq FROM evidence WHERE removed_by IS NULL AND seq <= ? ORDER BY seq", (moved.seq,)
        ).fetchall()
        behind = connection.execute(
            "SELECT name, acked FROM cursors WHERE acked < ? ORDER BY name", (moved.seq,)
        ).fetchall()
    forget(ledger, folder, [seq for (seq,) in rows], "pruned")
    for table in COLUMNS:
        ledger.journal.change(f"DELETE FROM {table} WHERE record <= ?", last)  # noqa: S608 -- a constant's names
    for name, acked in behind:
        ledger.note(Event.GAP, {"subscriber": name, "from": acked + 1, "to": moved.seq})
    ledger.journal.change(
        "UPDATE cursors SET gap_from = coalesce(gap_from, acked + 1), gap_to = ?, acked = ? WHERE acked < ?",
        *(moved.seq, moved.seq, moved.seq),
    )
    ledger.note(Event.PRUNED, moved.detail() | {"station": ledger.station})
    ledger.commit()
    return last - anchor.record


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return how much of the ledger file is in use; pages that removed records left free are used again first."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _cut(ledger: Ledger, anchor: Anchor, retention: Retention, now_ns: int, limit: int) -> int:
    """Return the last record to remove; the anchor's own where nothing is to go."""
    waiting = [each.trigger for each in ledger.open_triggers()]
    last = min([anchor.record + limit, ledger.written.record, *(trigger - 1 for trigger in waiting)])
    if used_bytes(ledger.journal.connection) > retention.most_bytes:
        # A call's worth always stays, and half a call's worth goes or none: each removal adds a record itself, and a
        # size no ledger can have must not make it chase its own records for ever.
        last = min(last, ledger.written.record - limit)
        return last if last - anchor.record >= limit // 2 else anchor.record
    for table, time_column in TIME_COLUMN.items():
        young = ledger.journal.connection.execute(
            f"SELECT min(record) FROM {table} WHERE record > ? AND record <= ? AND {time_column} >= ?",  # noqa: S608 -- constants
            (anchor.record, last, now_ns - retention.most_ns),
        ).fetchone()[0]
        last = last if young is None else min(last, young - 1)
    return last


def _moved(connection: sqlite3.Connection, anchor: Anchor, last: int) -> Anchor:
    """Return the anchor after everything up to ``last`` has gone."""
    totals, seq, digest = Counter(anchor.totals), anchor.seq, anchor.hash
    framed = {trigger for trigger, has_frame in anchor.spanning.items() if has_frame}
    for table in COLUMNS:
        for row in connection.execute(SELECT[table], (anchor.record, last)):
            for name, number in counted(table, row):
                totals[name] += number
            if table == "frames" and (trigger := column(table, row, "trigger")) is not None:
                framed.add(trigger)
            if table == "inspections":
                seq = column(table, row, "seq")
            if row[0] == last:
                digest = row[-1]
    spanning = connection.execute(
        'SELECT "trigger" FROM inspections WHERE "trigger" <= ? AND record > ? ORDER BY "trigger"', (last, last)
    )
    return Anchor(last, digest, seq, totals, {trigger: trigger in framed for (trigger,) in spanning})
