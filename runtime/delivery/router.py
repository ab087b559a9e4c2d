"""The sockets of durable delivery: the host's ROUTER and a subscriber's DEALER, and sending on them without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from runtime.delivery.messages import DELIVERY_PARTS, MAX_CREDIT, Notice, Request, encode
from runtime.delivery.window import MOST_UNANSWERED
from runtime.errors import ConfigError
from runtime.shell import signals_held_back
from runtime.wire.header import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, Buffer
from runtime.wire.receiver import BoundedReceiver

#: Messages libzmq may hold for one subscriber: a full window, heartbeats and answers.
_SEND_HIGH_WATER = MAX_CREDIT + 4 * MOST_UNANSWERED
#: Messages libzmq may hold of one subscriber: acknowledgements are cumulative, so few are ever needed.
_REQUESTS_HIGH_WATER = 32
#: More than a window and its heartbeats: a subscriber's libzmq must not stop reading, or it answers no ping.
_DELIVERIES_HIGH_WATER = 1000
#: Time between two pings of libzmq, and after which a silent peer is cut off: a cable pulled out closes no connection.
_PING_MS, _PING_TIMEOUT_MS = 5000, 15_000
#: Flags of a part that others follow and of the last one, as plain integers: zmq's own are slow to combine.
_MORE, _LAST = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)


def open_router(context: zmq.Context[Any]) -> zmq.Socket[bytes]:
    """Return the socket that ``Deliveries`` works on, to be bound by the caller."""
    sock: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    sock.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a connection that has gone, or is full, is an error and not a loss
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
    sock.setsockopt(zmq.SNDHWM, _SEND_HIGH_WATER)
    sock.setsockopt(zmq.RCVHWM, _REQUESTS_HIGH_WATER)
    sock.setsockopt(zmq.HEARTBEAT_IVL, _PING_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, _PING_TIMEOUT_MS)
    sock.setsockopt(zmq.LINGER, 0)  # what was not handed out is owed still
    return sock


def route(sock: zmq.Socket[bytes], identity: bytes, parts: Sequence[Buffer]) -> None:
    """Send one message to a connection of a ROUTER without waiting.

    Raises ``zmq.Again`` where the connection is full, ``zmq.ZMQError`` where it has gone; then nothing was sent.
    """
    sock.send(identity, _MORE)  # decides: what follows goes the same way
    for part in parts[:-1]:
        sock.send(part, _MORE)
    sock.send(parts[-1], _LAST)


class Connection:
    """A subscriber's one connection to a host; a new one has a new identity. Raises ``ConfigError`` for an address."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        with signals_held_back():
            self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.RCVHWM, _DELIVERIES_HIGH_WATER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._messages = BoundedReceiver(self._socket, DELIVERY_PARTS)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                "expected a ZeroMQ address such as tcp://127.0.0.1:5604 or ipc:///run/edgead/deliveries, "
                f"found {address!r} ({error.strerror})"
            ) from error

    def receive(self) -> list[memoryview] | None:
        """Return the parts of the next message, None where none has arrived. Never blocks."""
        parts = self._messages.receive()
        return None if parts is None else [part.buffer for part in parts]

    def wait(self, seconds: float) -> bool:
        """Wait for a message; tell whether one has come."""
        return bool(self._socket.poll(max(1, round(seconds * 1000))))

    def send(self, message: Request | Notice) -> bool:
        """Send without waiting; False where a thousand messages wait already for a host that is away."""
        try:
            self._socket.send_multipart(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close at once; what waits to be sent is dropped."""
        self._socket.close(0)
