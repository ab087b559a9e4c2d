"""What a check can find."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a ledger.

    ``kind``: file, head, missing, twice, changed, sequence, trigger, frame, evidence, totals, witness or more.
    ``record``: the record concerned, 0 for the whole file.
    """

    kind: str
    record: int
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"
