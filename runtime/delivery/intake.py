"""What a subscriber makes of what comes: what is new, what a repetition, what may be acknowledged. No socket here.

Life: SUBSCRIBING -> SUBSCRIBED -> LOST (the connection is of no use: make another, ``subscribe`` again) or ENDED (as
asked for). Rules:

* Results are told apart by ``result_id``: after a power cut a host may give the same ``seq`` to another result.
* Acknowledged is, on each connection, what has arrived *on it* and is processed. After a reconnect the host sends again
  from where its record stands, and repetitions of what was processed acknowledge themselves.
* On one connection ``seq`` counts up by one, or a gap says why not. Anything else is a lost message: LOST.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from runtime.delivery.messages import (
    ENDINGS,
    Ack,
    Closed,
    Delivery,
    Gap,
    Notice,
    Refused,
    Start,
    Subscribe,
    Subscribed,
    inspection_of,
)
from runtime.errors import StationError
from runtime.inspection import Inspection

log = logging.getLogger("edgead.subscriber")

#: Deliveries this side lets be on their way: enough to keep a fast line busy over the time of a commit or two.
CREDIT = 128
#: Processed results remembered by their id (about 1 MB): a killed host repeats at most a second's acknowledgements.
REMEMBERED = 10_000
#: Refusals after which subscribing again is the remedy.
_AGAIN = {"not_subscribed", "unavailable", "ahead"}


class Life(StrEnum):
    """Where a subscription is in its life; see the module docstring."""

    SUBSCRIBING = "subscribing"
    SUBSCRIBED = "subscribed"
    LOST = "lost"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A result not seen before; ``gap``: what was removed from the record before it could be delivered, or None."""

    delivery: Delivery
    inspection: Inspection
    gap: Gap | None


class Intake:
    """One subscriber's side of the protocol, over any number of connections."""

    def __init__(self, name: str, *, maps: bool = False, start: Start = Start.LAST_ACKED) -> None:
        self.name = name
        self.state = Life.LOST
        self.repetitions = 0
        self.heartbeat_s = 1.0
        self._maps, self._start = maps, start
        self._session, self._attempt = secrets.randbits(64), 0
        self._handed_out: dict[str, None] = {}  # ids in order, not processed yet
        self._processed: dict[str, None] = {}  # ids in order, at most REMEMBERED
        self._gap: Gap | None = None  # goes with the next arrival
        self._gap_before: Gap | None = None
        self._begin(0)

    def _begin(self, acked: int) -> None:
        self._expected = acked + 1
        self._arrived: deque[tuple[int, str]] = deque()  # on this connection, not acknowledged on it
        self._any_arrived = False
        self._acked = self._ack_sent = acked

    def subscribe(self) -> Subscribe:
        """Return the first message of a new connection."""
        self._attempt += 1
        self.state = Life.SUBSCRIBING
        self._begin(0)
        return Subscribe(name=self.name, session=self._session, attempt=self._attempt, credit=CREDIT,
                         start=self._start, maps=self._maps)  # fmt: skip

    def take(self, message: Notice | Delivery) -> Arrival | None:
        """Take what came on the newest connection; return a result if it brought a new one.

        Raises ``StationError`` where the host ends or refuses the subscription for good, ``WireError`` for a delivery
        whose result cannot be read.
        """
        if isinstance(message, Delivery):
            return self._deliver(message) if self.state is Life.SUBSCRIBED else None
        if isinstance(message, Subscribed):
            self.state = Life.SUBSCRIBED
            self.heartbeat_s = message.heartbeat_ms / 1000
            self._begin(message.acked)
        elif isinstance(message, Gap):
            self._miss(message)
        elif isinstance(message, Refused):
            self._refused(message)
        elif isinstance(message, Closed):
            self._closed(message)
        return None

    def done(self, result_id: str) -> None:
        """Take a result handed out, and all before it, as processed."""
        if result_id not in self._handed_out:
            return
        for each in tuple(self._handed_out):
            del self._handed_out[each]
            self._processed[each] = None
            if each == result_id:
                break
        while len(self._processed) > REMEMBERED:
            del self._processed[next(iter(self._processed))]
        self._advance()

    @property
    def unsent_acks(self) -> int:
        """Results processed whose acknowledgement has not been sent on this connection."""
        return self._acked - self._ack_sent

    def ack(self) -> Ack:
        """Return the acknowledgement of everything processed; sent without news it is a sign of life."""
        self._ack_sent = self._acked
        return Ack(seq=self._acked)

    # --- what came ----------------------------------------------------------------------------------------------

    def _deliver(self, delivery: Delivery) -> Arrival | None:
        inspection = inspection_of(delivery)
        if delivery.seq != self._expected:
            self.state = Life.LOST
            return None
        self._expected += 1
        self._any_arrived = True
        known = inspection.result_id
        self._arrived.append((delivery.seq, known))
        if known in self._processed or known in self._handed_out:
            self.repetitions += 1
            self._advance()
            return None
        self._handed_out[known] = None
        gap, self._gap = self._gap, None
        return Arrival(delivery, inspection, gap)

    def _miss(self, gap: Gap) -> None:
        if self._any_arrived and gap.to_seq < self._expected:
            return  # removed while they were on their way: they are all here
        self._expected = max(self._expected, gap.to_seq + 1)
        if gap != self._gap_before:  # the host tells it on every connection until something after it is acknowledged
            log.warning("results %d..%d were removed before they were acknowledged", gap.from_seq, gap.to_seq)
            self._gap = self._gap_before = gap

    def _advance(self) -> None:
        while self._arrived and self._arrived[0][1] in self._processed:
            self._acked = self._arrived.popleft()[0]

    def _refused(self, refused: Refused) -> None:
        self.state = Life.LOST
        if refused.reason not in _AGAIN:
            raise StationError(
                f"expected a subscription as {self.name!r}, the host refused it: {refused.reason}: {refused.detail}"
            )

    def _closed(self, closed: Closed) -> None:
        self.state = Life.ENDED if closed.reason in {"left", "forgotten"} else Life.LOST
        if closed.reason == "replaced":
            raise StationError(
                f"expected to be the only subscriber {self.name!r}, found: {ENDINGS['replaced']}; "
                "stop one of the two, or give it a name of its own"
            )
