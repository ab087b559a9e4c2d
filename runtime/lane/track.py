"""What one lane has answered lately: what the guard of a swap compares."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runtime.inspection import ErrorWord, Inspection, Verdict

#: Inspections looked back at.
MEMORY = 500
#: Words that say nothing about detector, template or camera settings: what they were said for is not counted.
_NOT_ITS_OWN = frozenset(
    {ErrorWord.STOPPING, ErrorWord.BAD_COMMAND, ErrorWord.CAMERA_LOST, ErrorWord.HOST_LOST, ErrorWord.DISK_FULL}
)


@dataclass(frozen=True, slots=True)
class Summary:
    """``parts`` inspections: ``undecided`` and ``not_ok`` shares, 0..1 (the second of the decided), 95th percentile.

    ``latency_us``: microseconds from arrival to publication; 0 without parts.
    """

    parts: int
    undecided: float
    not_ok: float
    latency_us: int


class Track:
    """The latest ``MEMORY`` inspections of a lane, as verdict and latency."""

    def __init__(self) -> None:
        self.latest: deque[tuple[Verdict, int]] = deque(maxlen=MEMORY)
        #: How many were ever noted.
        self.total = 0

    def add(self, inspection: Inspection) -> None:
        """Note one inspection."""
        if inspection.error not in _NOT_ITS_OWN:
            self.latest.append((inspection.verdict, inspection.latency_us))
            self.total += 1

    def since(self, total: int) -> list[tuple[Verdict, int]]:
        """Return what was noted since ``total`` were, as far as it is remembered."""
        fresh = self.total - total
        return [*self.latest][-fresh:] if fresh > 0 else []

    def summary(self) -> Summary:
        """Return the figures of what is remembered."""
        parts = len(self.latest)
        undecided = sum(verdict is Verdict.NOT_DECIDABLE for verdict, _ in self.latest)
        not_ok = sum(verdict is Verdict.NOT_OK for verdict, _ in self.latest)
        latencies = sorted(latency for _, latency in self.latest)
        return Summary(
            parts=parts,
            undecided=undecided / parts if parts else 0.0,
            not_ok=not_ok / (parts - undecided) if parts > undecided else 0.0,
            latency_us=latencies[max(0, -(-parts * 95 // 100) - 1)] if parts else 0,
        )
