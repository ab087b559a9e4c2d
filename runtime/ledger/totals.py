"""Counting, and the equations that must hold: nothing that came in is unaccounted for.

Totals are counts by name. ``counted`` says what one record adds; the writer keeps the running totals of everything ever
recorded in ``head``, and ``check`` adds up the records again.

* ``triggers`` = ``inspections`` + open triggers; ``inspections`` = sum of ``inspections.<verdict>``
* ``frames`` = ``frames.inspected`` + sum of ``frames.dropped.<reason>`` + frames of open triggers

A frame is inspected when its trigger was decided (OK, NotOK). It is dropped for the error word of its NotDecidable
inspection, or at the door, with no trigger, for the reason recorded with it (duplicate, ...). Messages that were no
frame of this station are in ``refused.<reason>``, as the host counted them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

from runtime.inspection import Verdict
from runtime.ledger.schema import COLUMNS, Row


class Event(StrEnum):
    """What else is recorded. The host notes the first group; the ledger writes the second itself."""

    IN_USE = "in_use"  # the template a camera begins with: noted at every start
    SWAP = "swap"
    RESTART = "restart"  # of a worker
    STATE = "state"  # of a worker: degraded, failed, ready again
    RECIPE = "recipe"  # another one picked for the frames that name none
    LATE_ANSWER = "late_answer"  # of a worker, to a trigger that was answered at its deadline
    REFUSED = "refused"  # detail: {reason: how many since the last such event}
    EVIDENCE_SKIPPED = "evidence_skipped"  # detail: {reason: how many since the last such event}
    REMARK = "remark"

    CREATED = "created"
    OPENED = "opened"
    CLOSED = "closed"
    DISK_FULL = "disk_full"
    PRUNED = "pruned"  # detail: the anchor
    EVIDENCE_REMOVED = "evidence_removed"  # detail: {"reason": word, "seqs": [...]}
    REGISTERED = "registered"
    UNREGISTERED = "unregistered"
    GAP = "gap"  # detail: {"subscriber": name, "from": seq, "to": seq}


_AT = {table: {name: index for index, name in enumerate(names, start=1)} for table, names in COLUMNS.items()}
_LABELS = {int(verdict): verdict.label for verdict in Verdict}


def column(table: str, row: Row, name: str) -> Any:
    """Return one column of a chained row (record, columns, hash)."""
    return row[_AT[table][name]]


def counted(table: str, row: Row) -> list[tuple[str, int]]:
    """Return what a chained row (record, columns, hash) adds to the totals."""
    if table == "triggers":
        return [("triggers", 1)]
    if table == "frames":
        reason, trigger = column(table, row, "dropped"), column(table, row, "trigger")
        return [("frames", 1)] if trigger is not None else [("frames", 1), (f"frames.dropped.{reason}", 1)]
    if table == "inspections":
        verdict, error = column(table, row, "verdict"), column(table, row, "error")
        counts = [("inspections", 1), (f"inspections.{_LABELS.get(verdict, verdict)}", 1)]
        if column(table, row, "framed"):
            counts.append((f"frames.dropped.{error}" if verdict == Verdict.NOT_DECIDABLE else "frames.inspected", 1))
        return counts
    if table == "evidence":
        return [("evidence", 1)]
    kind = column(table, row, "kind")
    counts = [(f"events.{kind}", 1)]
    if kind == Event.REFUSED:
        counts += [(f"refused.{reason}", number) for reason, number in read_detail(row).items() if type(number) is int]
    return counts


def read_detail(row: Row) -> dict[str, Any]:
    """Return the detail of a row of ``events``; empty if it is damaged (its hash tells)."""
    try:
        value = json.loads(column("events", row, "detail"))
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def conserved(totals: Counter[str], open_triggers: int, open_frames: int) -> list[str]:
    """Return every equation of the module docstring that does not hold, with its numbers.

    ``open_triggers``: triggers still without inspection; ``open_frames``: how many of them have their frame.
    """

    def total(prefix: str) -> int:
        return sum(number for name, number in totals.items() if name.startswith(prefix))

    dropped = total("frames.dropped.")
    equations: Iterable[tuple[str, int, int]] = (
        ("triggers = inspections + open", totals["triggers"], totals["inspections"] + open_triggers),
        ("inspections = the sum over verdicts", totals["inspections"], total("inspections.")),
        ("frames = inspected + dropped + open", totals["frames"], totals["frames.inspected"] + dropped + open_frames),
    )
    return [f"expected {words}, found {left} and {right}" for words, left, right in equations if left != right]


def spell(value: Any) -> str:
    """Return the one spelling of an event's detail or of totals: JSON, keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def spell_totals(totals: Mapping[str, int]) -> str:
    """Return what ``spell`` returns of whole numbers by name, in half its time: every commit waits for it."""
    return f"{{{','.join([f'{_spelled(name)}:{totals[name]}' for name in sorted(totals)])}}}"


#: A name in quotes. There are some forty; an event may bring others.
_spelled = lru_cache(maxsize=1024)(json.dumps)
