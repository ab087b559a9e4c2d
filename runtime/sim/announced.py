"""The parts of a run through chaos whose triggers are raised ahead of their frames, at a camera of their own.

Their frames come as the plan says: after the trigger, before it, twice, too late, or never. A frame is sent once and
not again for want of a receipt: it may be lost with a killed host, and its trigger must be answered all the same.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from runtime.client.triggers import TriggerClient
from runtime.sim.plan import DEADLINE_MS, Coming, Plan
from runtime.testing.station import HandCamera
from runtime.wire.messages import Receipt

CAMERA = "side"
#: Longest time between a trigger and its frame, either way round; between a frame and its copy; past the deadline.
_APART_S, _COPY_S, _PAST_S = 0.05, 0.01, 0.1


class AnnouncedParts:
    """Raises the triggers of one plan and sends their frames."""

    def __init__(self, client: TriggerClient, camera: HandCamera, plan: Plan, counts: Counter[str]) -> None:
        self._client, self._camera, self._plan, self._counts = client, camera, plan, counts
        self._rng = np.random.default_rng((plan.seed, 3))
        self._raised_ns: dict[int, int] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    @property
    def waiting(self) -> int:
        """Triggers without receipt, and what is still to be sent."""
        return len(self._raised_ns) + len(self._later)

    def begin(self, number: int, coming: Coming) -> None:
        """Raise the trigger of a part, and see to its frame."""
        self._counts[f"ahead.{coming}"] += 1
        image = self._plan.image(number)
        parts = self._camera.message(image, frame_id=number, trigger_id=number)
        apart_s = self._rng.uniform(0, _APART_S)
        if coming is Coming.BEFORE:
            self._camera.send_parts(parts)
            self._after(apart_s, lambda: self._raise(number))
            return
        self._raise(number)
        if coming is Coming.LATE:
            apart_s = DEADLINE_MS / 1000 + _PAST_S
        if coming is not Coming.NEVER:
            self._after(apart_s, lambda: self._camera.send_parts(parts))
        if coming is Coming.TWICE:
            self._after(apart_s + _COPY_S, lambda: self._camera.send_parts(parts))

    def turn(self) -> Iterator[tuple[Receipt, int | None]]:
        """Send what is due; yield the receipts that are there, of triggers with the time they were raised (UTC ns)."""
        while self._later and time.monotonic() >= self._later[0][0]:
            heapq.heappop(self._later)[2]()
        while (receipt := self._client.receive(0.0)) is not None:
            yield receipt, self._raised_ns.pop(receipt.trigger_id or 0, None)
        while self._camera.has_receipt():
            yield self._camera.receipt(), None

    def named(self) -> list[int]:
        """Return the first few triggers without receipt."""
        return sorted(self._raised_ns)[:10]

    def _raise(self, number: int) -> None:
        self._raised_ns[number] = time.time_ns()
        self._client.raise_trigger(CAMERA, number)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._later, (time.monotonic() + seconds, self._order, action))
