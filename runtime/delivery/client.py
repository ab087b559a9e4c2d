"""Receives every result of a station, at least once and in order, under a name: ``edgead.subscribe``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import zmq

from runtime.delivery.intake import CREDIT, Arrival, Intake, Life
from runtime.delivery.messages import Delivery, Gap, Heartbeat, Request, Start, Unsubscribe, decode_answer
from runtime.delivery.router import Connection
from runtime.errors import ConfigError, StationError, WireError
from runtime.inspection import Inspection
from runtime.shell import signals_held_back
from runtime.wire.header import is_name

if TYPE_CHECKING:
    import numpy as np

#: Heartbeats of silence after which the host is asked for a word, and after which the connection is made anew.
ASK_AFTER, GIVE_UP_AFTER = 1.5, 3.5
#: Seconds between two attempts to subscribe.
RETRY_S = 0.5
#: Seconds a close waits for the host's word that the last acknowledgement has arrived.
FAREWELL_S = 1.0
#: Acknowledgements saved up while more results are waiting to be read, and the longest one of them waits, in seconds:
#: a slow reader of a long backlog must not look stuck, nor get it all again after a crash.
_ACKS_TOGETHER, _ACK_WITHIN_S = CREDIT // 4, 0.2


@dataclass(frozen=True, slots=True)
class Delivered:
    """One result. ``header``: its header part as first sent; ``map_payload``: bytes of the map, None if not there.

    ``historical``: sent from the record, not live. ``gap``: results before this one that were removed from the record
    before they were acknowledged, or None. ``inspection.map`` describes ``map_payload``.
    """

    seq: int
    historical: bool
    inspection: Inspection
    header: bytes
    map_payload: bytes | None
    gap: Gap | None
    _subscription: Subscription = field(repr=False, compare=False)

    def ack(self) -> None:
        """Acknowledge this result and all before it: they are processed and need not come again.

        Raises ``StationError`` after the subscription was closed: then they will come again.
        """
        self._subscription.acknowledge(self)

    def anomaly_map(self) -> np.ndarray | None:
        """Return the map as float32 [h, w], higher = more anomalous, or None if it was not delivered."""
        from runtime.wire.answers import decode_map

        if self.inspection.map is None or self.map_payload is None:
            return None
        return decode_map(self.inspection.map, self.map_payload)


class Subscription:
    """A named subscription: iterate over it, or call ``receive``; use as a context manager or close it.

    It connects, subscribes again and leaves repetitions out by itself. Iterating acknowledges a result when the next
    one is asked for, that is when it is processed; before leaving a loop early call ``ack``. ``receive`` acknowledges
    nothing by itself: for results stored in batches, call ``ack`` on a batch's last once it is stored. At most
    ``CREDIT`` (128) results come without acknowledgement.
    """

    def __init__(
        self, address: str, name: str, *, maps: bool = False, timeout_s: float | None = None, from_oldest: bool = False
    ) -> None:
        """See ``subscribe``."""
        if not is_name(name):
            raise ConfigError(f"expected a subscriber's name of 1 to 64 of A-Z a-z 0-9 _ -, found {name[:80]!r}")
        self.address, self.timeout_s = address, timeout_s
        self._intake = Intake(name, maps=maps, start=Start.OLDEST if from_oldest else Start.LAST_ACKED)
        self._last: Delivered | None = None  # handed out by iterating: processed when the next is asked for
        self._attempted = -RETRY_S
        self._acked_at = 0.0
        self._heard = self._asked = time.monotonic()
        with signals_held_back():
            self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection: Connection | None = None
        try:
            self._connect()
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delivered:
        """Return the next result; end after ``timeout_s`` without one, ``StationError`` if no station answered then."""
        if self._last is not None:
            self._intake.done(self._last.inspection.result_id)
        self._last = self.receive(self.timeout_s)
        if self._last is not None:
            return self._last
        if self._intake.state is not Life.SUBSCRIBED:
            raise StationError(
                f"no station answers at {self.address} within {self.timeout_s:g} s: is `edgead run` up, "
                "and is this its address for deliveries?"
            )
        raise StopIteration

    @property
    def subscribed(self) -> bool:
        """Whether the station has answered, and still does as far as is known."""
        return self._intake.state is Life.SUBSCRIBED

    @property
    def repetitions(self) -> int:
        """Deliveries left out because they had come before."""
        return self._intake.repetitions

    def receive(self, timeout_s: float | None = None) -> Delivered | None:
        """Return the next result, or None after ``timeout_s`` seconds without one (None: wait for ever).

        Raises ``StationError`` where the station refuses the subscription or another subscriber has taken its name,
        ``WireError`` for a message that is none of this protocol; what it was comes again at the next call.
        """
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if (delivered := self._read()) is not None:
                return delivered
            if self._intake.unsent_acks:
                self._send_ack()
            wait_s = self._keep_in_touch()
            if give_up is not None:
                wait_s = min(wait_s, give_up - time.monotonic())
                if wait_s <= 0:
                    return None
            if self._connection is None:
                time.sleep(wait_s)
            else:
                self._connection.wait(wait_s)

    def acknowledge(self, delivered: Delivered) -> None:
        """Acknowledge a result and all before it; ``Delivered.ack`` calls this."""
        if self._context.closed:
            raise StationError(
                f"expected an open subscription, found it closed: result {delivered.seq} will come again"
            )
        self._intake.done(delivered.inspection.result_id)
        if self._intake.unsent_acks:
            self._send_ack()

    def close(self) -> None:
        """Hand over the last acknowledgement and leave; the station goes on keeping what this name is owed."""
        if self._context.closed:
            return
        try:
            self._leave(Unsubscribe(), FAREWELL_S)
        finally:
            self._release()

    def forget(self, timeout_s: float = 5.0) -> None:
        """Have the station forget this name, and close. Raises ``StationError`` if it does not say so in time."""
        try:
            give_up = time.monotonic() + timeout_s
            while not self.subscribed and time.monotonic() < give_up:
                self._read()
                time.sleep(min(0.01, max(0.0, self._keep_in_touch())))
            if not self._leave(Unsubscribe(forget=True), max(0.0, give_up - time.monotonic())):
                raise StationError(f"expected {self.address} to forget {self._intake.name!r} within {timeout_s:g} s, "
                                   "found no answer: is `edgead run` up?")  # fmt: skip
        finally:
            self._release()

    # --- the connection -----------------------------------------------------------------------------------------

    def _read(self) -> Delivered | None:
        """Return the next new result that has arrived already; None when there is nothing left to read."""
        while self._connection is not None:
            parts = self._connection.receive()
            if parts is None:
                return None
            self._heard = self._asked = time.monotonic()
            try:
                message = decode_answer(parts)
                arrival = self._intake.take(message)
            except (WireError, StationError):
                self._drop()
                raise
            if self._intake.state is Life.LOST:
                self._drop()
            elif self._ack_is_due() or isinstance(message, Heartbeat):
                self._send_ack()
            if arrival is not None:
                return self._delivered(arrival)
        return None

    def _ack_is_due(self) -> bool:
        waiting = self._intake.unsent_acks
        return waiting >= _ACKS_TOGETHER or (waiting > 0 and time.monotonic() - self._acked_at >= _ACK_WITHIN_S)

    def _send_ack(self) -> None:
        self._acked_at = time.monotonic()
        self._send(self._intake.ack())

    def _delivered(self, arrival: Arrival) -> Delivered:
        delivery = arrival.delivery
        payload = None if delivery.map_payload is None else bytes(delivery.map_payload)
        return Delivered(
            delivery.seq, delivery.historical, arrival.inspection, delivery.result, payload, arrival.gap, self
        )

    def _keep_in_touch(self) -> float:
        """Connect where there is no connection, ask a silent host, give a dead one up; return seconds to wait."""
        now = time.monotonic()
        beat_s = self._intake.heartbeat_s
        if self._connection is not None and now - self._heard >= GIVE_UP_AFTER * beat_s:
            self._drop()
        if self._connection is None:
            if now - self._attempted < RETRY_S:
                return RETRY_S - (now - self._attempted)
            self._connect()
        elif self.subscribed and now - self._asked >= ASK_AFTER * beat_s:
            self._asked = now
            self._send(self._intake.ack())  # a restarted host answers that it does not know us
        return ASK_AFTER * beat_s

    def _connect(self) -> None:
        """Make a new connection, with a new identity: what came late on the old one can do no harm."""
        self._attempted = self._heard = self._asked = time.monotonic()
        self._connection = Connection(self._context, self.address)
        self._send(self._intake.subscribe())

    def _drop(self) -> None:
        self._intake.state = Life.LOST
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, message: Request) -> bool:
        return self._connection is not None and self._connection.send(message)

    def _leave(self, message: Unsubscribe, timeout_s: float) -> bool:
        """Say goodbye; tell whether the host has answered."""
        if not self.subscribed or self._connection is None:
            return False
        self._send(self._intake.ack())
        self._send(message)
        give_up = time.monotonic() + timeout_s
        while self.subscribed and (left_s := give_up - time.monotonic()) > 0:
            if not self._connection.wait(left_s) or (parts := self._connection.receive()) is None:
                continue
            try:
                answer = decode_answer(parts)
                if not isinstance(answer, Delivery):  # what still comes will come again
                    self._intake.take(answer)
            except (WireError, StationError):
                return False
        return self._intake.state is Life.ENDED

    def _release(self) -> None:
        self._drop()
        self._context.term()


def subscribe(
    address: str, name: str, *, maps: bool = False, timeout_s: float | None = None, from_oldest: bool = False
) -> Subscription:
    """Return the results of a station as an iterator of ``Delivered``: every one, at least once, in order.

    ``address``: of the station's deliveries. ``name``: 1 to 64 of A-Z a-z 0-9 _ -; from its first subscription on the
    station keeps what this name is owed, while nobody is connected too. ``maps``: with anomaly maps, as far as they
    are live or kept. ``timeout_s``: end after so many seconds without a result. ``from_oldest``: a new name begins
    with the oldest result on record, not with the next one. Raises ``ConfigError`` for a wrong address or name;
    iterating raises ``StationError`` and ``WireError``.
    """
    return Subscription(address, name, maps=maps, timeout_s=timeout_s, from_oldest=from_oldest)
