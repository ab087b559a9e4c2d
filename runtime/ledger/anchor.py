"""The anchor: what retention removed from the old end, signed off in the chain it was removed from.

Each removal appends a ``pruned`` event whose detail is the anchor, so the newest such event always lives at the young
end, its hash covers it, and the rest of the chain is proven from the anchor's hash on. Totals add up: the anchor's plus
those of the records that are left.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import LedgerError
from runtime.ledger.chain import GENESIS
from runtime.ledger.schema import COLUMNS, Row
from runtime.ledger.totals import Event, read_detail

_EVENTS = ", ".join(COLUMNS["events"])


@dataclass(frozen=True, slots=True)
class Anchor:
    """Everything up to ``record`` was removed.

    ``hash``: of that record. ``seq``: the last inspection removed. ``totals``: of all that was removed. ``spanning``:
    triggers removed whose inspection is still there, each with whether its frame was removed with it.
    """

    record: int = 0
    hash: bytes = GENESIS
    seq: int = 0
    totals: Counter[str] = field(default_factory=Counter)
    spanning: dict[int, bool] = field(default_factory=dict)

    def detail(self) -> dict[str, Any]:
        """Return the anchor as the detail of its event."""
        return {
            "record": self.record,
            "hash": self.hash.hex(),
            "seq": self.seq,
            "totals": dict(self.totals),
            "spanning": [[trigger, framed] for trigger, framed in sorted(self.spanning.items())],
        }


def read_anchor(connection: sqlite3.Connection) -> Anchor:
    """Return the anchor of the newest ``pruned`` event; the genesis if nothing was ever removed.

    Raises ``LedgerError`` if that event is damaged: then nothing after it can be proven.
    """
    row: Row | None = connection.execute(
        f"SELECT record, {_EVENTS}, hash FROM events WHERE kind = '{Event.PRUNED}' ORDER BY record DESC LIMIT 1"  # noqa: S608 -- constants
    ).fetchone()
    if row is None:
        return Anchor()
    detail = read_detail(row)
    try:
        return Anchor(
            int(detail["record"]),
            bytes.fromhex(detail["hash"]),
            int(detail["seq"]),
            Counter({str(name): int(number) for name, number in detail["totals"].items()}),
            {int(trigger): bool(framed) for trigger, framed in detail["spanning"]},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"events record {row[0]}: expected an anchor, found a damaged one ({error!r})") from error
