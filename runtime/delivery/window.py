"""What one connection of a subscriber may be sent, and what it has acknowledged. Numbers only: no socket, no ledger.

A subscriber that reads nothing holds the host to ``credit`` deliveries or ``WINDOW_BYTES``, whichever comes first; the
rest of what it is owed stays on the disk, as a number.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Bytes on their way to one subscriber beyond which no further delivery is begun: eight maps of 512 x 512 float16.
WINDOW_BYTES = 4 * 1024 * 1024
#: Heartbeats unanswered beyond which no further is sent: a subscriber that does not read must not collect them.
MOST_UNANSWERED = 10
#: Heartbeats unanswered beyond which a subscriber does not respond.
RESPONDS_WITHIN = 3


@dataclass(slots=True, eq=False)  # one is not another, whatever their numbers
class Window:
    """One subscription on one connection. ``sent`` and ``acked`` are ``seq``; ``sent`` counts a gap told as sent."""

    name: str
    identity: bytes
    session: int
    attempt: int
    credit: int
    maps: bool
    acked: int
    sent: int = 0
    gap_to: int = 0
    """End of the last gap told on this connection; 0: none."""
    gap_open: bool = False
    """Whether that gap is not acknowledged yet."""
    unanswered: int = 0
    """Heartbeats since the subscriber last said anything."""
    delivered: int = 0
    historical: int = 0
    in_flight_bytes: int = 0
    _in_flight: deque[tuple[int, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Begin behind what is acknowledged."""
        self.sent = max(self.sent, self.acked)

    @property
    def in_flight(self) -> int:
        """Deliveries sent and not acknowledged."""
        return len(self._in_flight)

    @property
    def has_room(self) -> bool:
        """Whether one more delivery may be sent, of whatever size."""
        return len(self._in_flight) < self.credit and self.in_flight_bytes < WINDOW_BYTES

    @property
    def responds(self) -> bool:
        """Whether the subscriber has said anything since the last few heartbeats."""
        return self.unanswered <= RESPONDS_WITHIN

    def send(self, seq: int, size: int, *, historical: bool) -> None:
        """Take note of a delivery of ``size`` bytes sent."""
        self.sent = seq
        self._in_flight.append((seq, size))
        self.in_flight_bytes += size
        self.delivered += 1
        self.historical += historical

    def tell_gap(self, to_seq: int) -> None:
        """Take note of a gap told: what it spans is not sent any more."""
        self.gap_to, self.gap_open = to_seq, True
        self.sent = max(self.sent, to_seq)

    def ack(self, seq: int) -> bool:
        """Take everything up to ``seq`` as processed; tell whether that is news. ``seq`` is at most ``sent``."""
        # The record's cursor stands behind a gap from the start: acknowledging just that is news all the same.
        news = seq > self.acked or (self.gap_open and seq >= self.gap_to)
        self.gap_open = self.gap_open and seq < self.gap_to
        self.acked = max(self.acked, seq)
        while self._in_flight and self._in_flight[0][0] <= seq:
            self.in_flight_bytes -= self._in_flight.popleft()[1]
        return news
