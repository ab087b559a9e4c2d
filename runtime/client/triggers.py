"""Raises triggers at a station: what a PLC bridge uses, and `edgead trigger`.

A trigger without a receipt is sent again, unchanged, when the connection was lost and is there again: a station with a
ledger inspects none of them twice, over restarts too. One thread uses a client.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import Self

import zmq

from runtime.errors import StationError
from runtime.shell import signals_held_back
from runtime.trigger import TriggerHeader
from runtime.wire.header import U64
from runtime.wire.messages import Receipt, decode_receipt, encode_trigger

#: Triggers libzmq may hold for a station that does not take them, and most that may wait for their receipts.
SEND_HIGH_WATER, MOST_WAITING = 64, 1024
LINGER_MS = 2000
#: How soon it is tried again to send what a station did not take.
_AGAIN_S = 0.02


class TriggerClient:
    """A connection to a station's frame socket that raises triggers; use as a context manager or close it."""

    def __init__(self, address: str, *, wake: int | None = None, linger_ms: int | None = None) -> None:
        """Connect to ``address``, such as tcp://127.0.0.1:5601; the station need not be there yet.

        ``wake``: a descriptor that ends ``receive`` without a receipt when it can be read. ``linger_ms``: what unsent
        triggers are given by ``close``; None: ``LINGER_MS``.
        """
        self.address = address
        self._wake = wake
        with signals_held_back():
            self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS if linger_ms is None else linger_ms)
        self._connections = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._was_connected = False
        self._waiting: OrderedDict[tuple[str, int], list[bytes]] = OrderedDict()
        self._again: deque[tuple[str, int]] = deque()  # of those that wait, what must be sent again
        self._socket.connect(address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._connections, zmq.POLLIN)
        if wake is not None:
            self._poller.register(wake, zmq.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Triggers raised here that have no receipt yet."""
        return len(self._waiting)

    def raise_trigger(
        self,
        camera: str,
        trigger_id: int,
        *,
        part_id: str = "",
        recipe: str = "",
        deadline_ms: int | None = None,
        raised_ns: int | None = None,
        simulated: bool = False,
    ) -> TriggerHeader:
        """Send a trigger and return it; its receipt comes by ``receive``.

        ``trigger_id``: 0 to 2**64 - 1, the one its frame names, not in use by another trigger that waits. ``part_id``:
        up to 32 bytes of UTF-8. ``recipe``: empty for the current one. ``deadline_ms``: less than the station's, or
        None. ``raised_ns``: UTC nanoseconds, None for now. Raises ``WireError`` for what a message cannot carry, and
        ``StationError`` when the station takes no more, or the id is in use.
        """
        header = TriggerHeader(
            camera,
            trigger_id,
            part_id,
            recipe,
            time.time_ns() if raised_ns is None else raised_ns,
            deadline_ms=deadline_ms,
            simulated=simulated,
        )
        key = (camera, trigger_id)
        if key in self._waiting or len(self._waiting) >= MOST_WAITING:
            raise StationError(
                f"expected a trigger_id of 0..{U64} that does not wait for a receipt, and at most {MOST_WAITING} that "
                f"do, found {trigger_id} and {len(self._waiting)} waiting at {self.address}: take receipts first"
            )
        message = encode_trigger(header)
        self._send(message)
        self._waiting[key] = message
        return header

    def receive(self, timeout_s: float) -> Receipt | None:
        """Return the next receipt of a trigger that had none, or None after ``timeout_s``.

        Its ``trigger_id`` says which trigger, ``seq`` which inspection; not ``accepted``: none was made, for
        ``reason``. Raises ``WireError`` if something else than a station answers.
        """
        give_up = time.monotonic() + timeout_s
        while True:
            self._send_again()
            left_s = max(0.0, give_up - time.monotonic())
            ready = dict(self._poller.poll(round(1000 * (min(left_s, _AGAIN_S) if self._again else left_s))))
            if self._connections in ready:
                self._note_connection()
            if self._socket in ready:
                receipt = decode_receipt(self._socket.recv_multipart())
                if receipt.trigger_id is None or self._settle(receipt):
                    return receipt
            if (not ready and time.monotonic() >= give_up) or self._wake in ready:
                return None

    def ask(self, header: TriggerHeader, timeout_s: float) -> Receipt:
        """Wait for the receipt of a trigger just raised; ``StationError`` if none comes within ``timeout_s``.

        Receipts of other triggers that come meanwhile are lost: where several wait, use ``receive``.
        """
        give_up = time.monotonic() + timeout_s
        while (receipt := self.receive(max(0.0, give_up - time.monotonic()))) is not None:
            if receipt.trigger_id is None or (receipt.camera, receipt.trigger_id) == (header.camera, header.trigger_id):
                return receipt
        raise StationError(
            f"the station at {self.address} left trigger {header.trigger_id} without a receipt for {timeout_s:g} s: "
            "is `edgead run` up, and the address that of its frame socket?"
        )

    def close(self) -> None:
        """Close the connection, giving unsent triggers ``LINGER_MS``."""
        self._socket.disable_monitor()
        self._connections.close()
        self._socket.close()
        self._context.term()

    def _settle(self, receipt: Receipt) -> bool:
        """Take a trigger that has its receipt off the list; False if it had one already."""
        return self._waiting.pop((receipt.camera, receipt.trigger_id or 0), None) is not None

    def _send(self, message: list[bytes]) -> None:
        if not self._is_sent(message):
            raise StationError(
                f"the station at {self.address} takes no triggers, {SEND_HIGH_WATER} wait to be sent: "
                "is `edgead run` up, and the address that of its frame socket?"
            )

    def _is_sent(self, message: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _note_connection(self) -> None:
        """Send what has no receipt again, but for the first connection: libzmq sends what waits for that."""
        self._connections.recv_multipart()
        if self._was_connected:
            self._again = deque(self._waiting)
        self._was_connected = True

    def _send_again(self) -> None:
        """Send again what still has no receipt, as much of it as the station takes now."""
        while self._again:
            message = self._waiting.get(self._again[0])
            if message is not None and not self._is_sent(message):
                return
            self._again.popleft()
