"""When an idle worker is asked for a sign of life, and when that is a self-test.

A sign of life costs the worker microseconds, a self-test the time of one golden frame: a part that comes meanwhile
waits for it. So a self-test goes right behind an answered frame, when the next part is furthest away, or after as long
a silence as lies between two of them.
"""

from __future__ import annotations

#: Pause between two signs of life.
HEARTBEAT_S = 1.0


class Pulse:
    """One worker's. ``self_test_ns``: time between two self-tests, 0: none. Times are monotonic nanoseconds."""

    def __init__(self, self_test_ns: int) -> None:
        self.asked_ns: int | None = None
        self.due_ns: int | None = None
        self.self_test_ns = self_test_ns
        self._tested_ns = 0
        self._idle_since_ns: int | None = None

    def begin(self, now_ns: int) -> None:
        """Start anew with a fresh worker, which has just answered its golden frames."""
        self.asked_ns, self._idle_since_ns = None, now_ns
        self._tested_ns = now_ns
        self.due_ns = now_ns + int(HEARTBEAT_S * 1e9)

    def ask(self, now_ns: int, *, idle: bool) -> bool | None:
        """Return None when there is nothing to ask, else whether it is a self-test, and take it as asked."""
        just_idle = idle and self._idle_since_ns is None
        if not idle or self._idle_since_ns is None:
            self._idle_since_ns = now_ns if idle else None
        if self._idle_since_ns is None or self.asked_ns is not None:
            return None
        is_calm = just_idle or now_ns - self._idle_since_ns >= self.self_test_ns
        test = bool(self.self_test_ns) and is_calm and now_ns - self._tested_ns >= self.self_test_ns
        if just_idle and not test:  # the answered frame was the sign of life
            self.due_ns = now_ns + int(HEARTBEAT_S * 1e9)
        if not test and self.due_ns is not None and now_ns < self.due_ns:
            return None
        self.asked_ns = now_ns
        if test:
            self._tested_ns = now_ns
        return test

    def answered(self, now_ns: int) -> None:
        """Take the answer; ``ValueError`` if nothing was asked."""
        if self.asked_ns is None:
            raise ValueError("expected no sign of life, nobody asked for one")
        self.asked_ns = None
        self.due_ns = now_ns + int(HEARTBEAT_S * 1e9)
