"""A publisher's subscription: the station's durable deliveries, less what it was done with before a restart."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Self

from runtime.delivery.client import Delivered, Subscription
from runtime.publishing.memory import Memory


class StationFeed:
    """The ``Feed`` of one publisher. ``name``: of its subscription; ``memory``: file of what it was done with."""

    def __init__(self, address: str, name: str, memory: Path) -> None:
        """Connect to the deliveries at ``address``; raises ``ConfigError`` as ``subscribe`` and ``Memory`` do."""
        self._memory = Memory(memory)
        try:
            self._subscription = Subscription(address, name)
        except BaseException:
            self._memory.close()
            raise
        self._handed: deque[Delivered] = deque()
        self.received = 0
        self.repeated = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._subscription.close()
        finally:
            self._memory.close()

    def receive(self, timeout_s: float) -> Delivered | None:
        """Return the next result, or None after ``timeout_s`` without one; see ``Feed``."""
        while (delivered := self._subscription.receive(timeout_s)) is not None:
            self._handed.append(delivered)
            if delivered.inspection.result_id not in self._memory:
                self.received += 1
                return delivered
            self.repeated += 1
            self._acknowledge()
        return None

    def is_done(self, result_id: str) -> bool:
        """Tell whether a result was ``done``; see ``Feed``."""
        return result_id in self._memory

    def done(self, delivered: Delivered) -> None:
        """Remember a result, then acknowledge what has nothing undone before it; see ``Feed``."""
        if delivered.inspection.result_id not in self._memory:
            self._memory.add(delivered.inspection.result_id)
        self._acknowledge()

    def _acknowledge(self) -> None:
        last: Delivered | None = None
        while self._handed and self._handed[0].inspection.result_id in self._memory:
            last = self._handed.popleft()
        if last is not None:
            last.ack()
