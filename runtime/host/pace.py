"""When the host writes down what a turn brought: one transaction for a frame and its answer, or one for each.

A result is written at once, because it is sent behind that. A frame waits for its answer for ``COMMIT_NS`` at most.
Where that wait was in vain the next frames are written in their own turn: the detector has only begun then, and the
host's caches are warm, where two milliseconds later writing takes several times as long and a core from the detector.
"""

from __future__ import annotations

#: Longest a record waits for the commit of a turn that has results.
COMMIT_NS = 2_000_000


class Pace:
    """Times are monotonic nanoseconds. ``due_ns``: when what waits is written at the latest, None: nothing waits."""

    def __init__(self) -> None:
        self.due_ns: int | None = None
        self._is_hasty = False
        self._early_ns = -COMMIT_NS  # when frames were last written without waiting for their answers

    def writes(self, now_ns: int, *, results: bool, frames: bool) -> bool:
        """Tell whether what waits is to be written now. ``results``, ``frames``: there are such among it."""
        if self.due_ns is None:
            self.due_ns = now_ns + COMMIT_NS
        if results:
            if now_ns - self._early_ns < COMMIT_NS:
                self._is_hasty = False  # one transaction would have done
            return True
        is_due = now_ns >= self.due_ns
        if frames and is_due:
            self._is_hasty = True
        if frames and self._is_hasty:
            self._early_ns = now_ns
            return True
        return is_due
