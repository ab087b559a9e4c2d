"""The books of a check: triggers answered once, no gap in the sequence, frames with their triggers, right totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runtime.ledger.anchor import Anchor
from runtime.ledger.problem import Problem
from runtime.ledger.schema import Row
from runtime.ledger.totals import Event, column, conserved, counted, read_detail


class Accounts:
    """Takes the rows of a ledger in order and says where they contradict each other. Rows may hold anything."""

    def __init__(self, anchor: Anchor) -> None:
        self._totals = Counter(anchor.totals)
        self._seq = anchor.seq
        self._station = ""
        #: Triggers without inspection so far: deadline (0 where the record was removed) and whether the frame came.
        self._open: dict[object, tuple[int, bool]] = {
            trigger: (0, framed) for trigger, framed in anchor.spanning.items()
        }
        #: By ``seq`` of the evidence: the last event that says it was removed.
        self.removed: dict[object, int] = {}

    def take(self, table: str, row: Row) -> Iterator[Problem]:
        """Take one row (record, columns, hash); yield what contradicts the rows before it."""
        for name, number in counted(table, row):
            self._totals[name] += number
        if table == "triggers":
            deadline = column(table, row, "deadline_ns")
            self._open[row[0]] = (deadline if isinstance(deadline, int) else 0, False)
        elif table == "frames":
            yield from self._frame(row)
        elif table == "inspections":
            yield from self._inspection(row)
        elif table == "evidence":
            yield from self._evidence(row)
        else:
            self._event(row)

    def _frame(self, row: Row) -> Iterator[Problem]:
        trigger = column("frames", row, "trigger")
        if trigger is None:
            return
        deadline, framed = self._open.get(trigger, (0, True))
        if framed:
            yield Problem(
                "frame", row[0], f"expected frame record {row[0]} with an open trigger without one, found {trigger}"
            )
        else:
            self._open[trigger] = (deadline, True)

    def _inspection(self, row: Row) -> Iterator[Problem]:
        record, seq, trigger = row[0], column("inspections", row, "seq"), column("inspections", row, "trigger")
        if seq != self._seq + 1:
            yield Problem("sequence", record, f"expected inspection {self._seq + 1} in record {record}, found {seq}")
        self._seq = seq if isinstance(seq, int) else self._seq + 1
        waiting = self._open.pop(trigger, None)
        if waiting is None:
            yield Problem(
                "trigger", record, f"expected inspection {seq} to answer an open trigger, found {trigger} not open"
            )
        elif waiting[1] != bool(column("inspections", row, "framed")):
            yield Problem(
                "frame", record, f"expected inspection {seq} to say whether its frame came, found the opposite"
            )

    def _evidence(self, row: Row) -> Iterator[Problem]:
        seq = column("evidence", row, "seq")
        if not isinstance(seq, int) or not 0 < seq <= self._seq:
            yield Problem("evidence", row[0], f"expected evidence of an inspection up to {self._seq}, found {seq}")

    def _event(self, row: Row) -> None:
        kind, detail = column("events", row, "kind"), read_detail(row)
        if kind in (Event.CREATED, Event.PRUNED):
            self._station = str(detail.get("station"))
        elif kind == Event.EVIDENCE_REMOVED and isinstance(detail.get("seqs"), list):
            self.removed.update({seq: row[0] for seq in detail["seqs"] if isinstance(seq, int)})

    def settle(self, station: str, seq: int, totals: Counter[str], overdue_ns: int) -> Iterator[Problem]:
        """Compare with the head's station, last ``seq`` and totals; name triggers whose deadline is past that time."""
        if self._station and station != self._station:
            yield Problem("head", 0, f"expected the ledger of station {self._station!r}, found {station!r}")
        if seq != self._seq:
            yield Problem("sequence", 0, f"expected the last inspection to be {seq}, found {self._seq}")
        for trigger, (deadline_ns, _) in self._open.items():
            if deadline_ns < overdue_ns:
                yield Problem(
                    "trigger",
                    trigger if isinstance(trigger, int) else 0,
                    f"expected an inspection for trigger {trigger}, found none",
                )
        open_frames = sum(framed for _, framed in self._open.values())
        for name in sorted(totals.keys() | self._totals.keys()):
            if totals[name] != self._totals[name]:
                yield Problem("totals", 0, f"{name}: expected {totals[name]} as counted, found {self._totals[name]}")
        for broken in conserved(self._totals, len(self._open), open_frames):
            yield Problem("totals", 0, broken)
