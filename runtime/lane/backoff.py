"""How long a worker that died stays away, and when it has died too often."""

from __future__ import annotations

from collections import deque

#: First and largest pause before a restart, seconds; doubled at every death of a worker that was not healthy yet.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 30.0
#: A worker that has been ready this long was healthy: its death starts the back-off anew.
HEALTHY_S = 60.0


class Backoff:
    """One worker's. ``budget``: deaths allowed within ``window_ns``. Times are monotonic nanoseconds."""

    def __init__(self, budget: int, window_ns: int) -> None:
        self.budget = budget
        self.window_ns = window_ns
        self._pause_s = FIRST_BACKOFF_S
        self._deaths_ns: deque[int] = deque()

    def died(self, now_ns: int, ready_ns: int | None) -> tuple[float, bool]:
        """Note a death; return the pause before the next start, in seconds, and whether the budget is spent.

        ``ready_ns``: when the worker became ready, None if it never did.
        """
        if ready_ns is not None and now_ns - ready_ns > HEALTHY_S * 1e9:
            self._pause_s = FIRST_BACKOFF_S
        self._deaths_ns.append(now_ns)
        while now_ns - self._deaths_ns[0] > self.window_ns:
            self._deaths_ns.popleft()
        is_spent = len(self._deaths_ns) > self.budget
        pause_s = MAX_BACKOFF_S if is_spent else self._pause_s
        self._pause_s = min(self._pause_s * 2, MAX_BACKOFF_S)
        return pause_s, is_spent
