"""One swap, from the request to its end, as records and status show it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runtime.lane.assignment import Assignment


class SwapState(StrEnum):
    """Where a swap is.

    ::

    preparing --ready--> guarded --enough good parts--> kept
        |                   +--relieved by the next swap--> active
        |                   +--a rule broken, or the worker died--> rolled_back
        +--ready, and nothing to guard it with--> active
        +--not ready in time, unfit, no memory, taken back--> refused
    """

    PREPARING = "preparing"
    """The new worker waits for its turn, loads, or proves itself; the old one inspects (``stop``: nobody does)."""
    GUARDED = "guarded"
    """The new worker inspects, and its parts are compared with those before."""
    ACTIVE = "active"
    """The new worker took over and nothing watches it: no guard, nothing to go back to, or relieved already."""
    KEPT = "kept"
    """It passed its guard; the old worker is gone."""
    REFUSED = "refused"
    """It never took over: the old one stays."""
    ROLLED_BACK = "rolled_back"
    """The guard took it back: the old one inspects again."""


#: States that are left again.
OPEN = frozenset({SwapState.PREPARING, SwapState.GUARDED})


@dataclass
class Swap:
    """``before``, ``after``: what inspected, and what was to. ``apply``: id of the request it belongs to.

    ``before`` of a swap that was refused or taken back is what inspects now. ``who`` took it back.
    """

    number: int
    apply: str
    before: Assignment
    after: Assignment
    state: SwapState = SwapState.PREPARING
    why: str = ""
    who: str = "guard"
    begun_ns: int = field(default_factory=time.time_ns)
    flipped_ns: int | None = None
    ended_ns: int | None = None
    parts: int = 0
    parts_watched: int = 0

    @property
    def id(self) -> str:
        """Name of the swap within this run of the host."""
        return f"s{self.number}"

    @property
    def is_open(self) -> bool:
        """Whether it may still change."""
        return self.state in OPEN

    def move(self, state: SwapState, why: str = "") -> dict[str, Any]:
        """Go to another state; return the record of it for the ledger."""
        self.state, self.why = state, why or self.why
        if state not in OPEN:
            self.ended_ns = time.time_ns()
        return self.event(state)

    def event(self, step: str) -> dict[str, Any]:
        """Return the detail of a ledger event: ``step`` is a state, or "begin"."""
        detail: dict[str, Any] = {
            "swap": self.id,
            "apply": self.apply,
            "step": str(step),
            "camera": self.after.name,
            "mode": self.after.camera.swap,
            "from": self.before.described(),
            "to": self.after.described(),
        }
        if self.after.recipe:
            detail["recipe"] = self.after.recipe
        if self.why:
            detail["why"] = self.why
        if step == SwapState.ROLLED_BACK:
            detail["who"] = self.who
        return detail

    def status(self) -> dict[str, Any]:
        """Return the swap's part of `edgead status --json`; times are UTC nanoseconds."""
        return {
            "id": self.id,
            "apply": self.apply,
            "camera": self.after.name,
            "recipe": self.after.recipe,
            "mode": self.after.camera.swap,
            "state": self.state.value,
            "why": self.why,
            "from": self.before.described(),
            "to": self.after.described(),
            "parts": self.parts,
            "parts_watched": self.parts_watched,
            "begun_ns": self.begun_ns,
            "flipped_ns": self.flipped_ns,
            "ended_ns": self.ended_ns,
        }
