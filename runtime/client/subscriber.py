"""Receives a station's live results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import zmq

from runtime.errors import StationError
from runtime.inspection import Inspection
from runtime.shell import signals_held_back
from runtime.wire.header import MAX_PAYLOAD_BYTES
from runtime.wire.messages import RESULT_TOPIC_PREFIX, decode_result
from runtime.wire.receiver import BoundedReceiver

if TYPE_CHECKING:
    import numpy as np

#: Results libzmq may hold for a subscriber that is busy drawing.
RECEIVE_HIGH_WATER = 1000
#: Most parts of a result: topic, header, map, preview.
RESULT_PARTS = 4


@dataclass(frozen=True, slots=True)
class Received:
    """One result: the record, the map's bytes and the preview's bytes where the station sends them."""

    inspection: Inspection
    map_payload: bytes | None
    preview: bytes | None

    def anomaly_map(self) -> np.ndarray | None:
        """Return the map as float32 [h, w], or None if the result carries none."""
        from runtime.wire.answers import decode_map

        if self.inspection.map is None or self.map_payload is None:
            return None
        return decode_map(self.inspection.map, self.map_payload)


class Subscriber:
    """A SUB connection to a station's result socket; use as a context manager or close it."""

    def __init__(self, address: str, station: str = "", camera: str = "") -> None:
        """Connect to ``address``; ``station`` and ``camera`` narrow what is received."""
        self.address = address
        with signals_held_back():
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._station, self._camera = station, camera
        prefix = RESULT_TOPIC_PREFIX + (f"{station}." if station else "").encode()
        self._socket.setsockopt(zmq.SUBSCRIBE, prefix + camera.encode() if station else prefix)
        self._socket.connect(address)
        self._messages = BoundedReceiver(self._socket, RESULT_PARTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(self, timeout_ms: int) -> Received | None:
        """Return the next result, or None after ``timeout_ms`` (negative: wait for ever).

        Raises ``WireError`` for a message that is no result.
        """
        give_up = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000
        while self._socket.poll(-1 if give_up is None else max(0, round((give_up - time.monotonic()) * 1000))):
            parts = self._messages.receive()
            if parts is None:  # what is left of a message of too many parts
                continue
            inspection, map_payload, preview = decode_result([part.buffer for part in parts])
            # A topic filter is a prefix: camera "top" also lets "top2" through, which must not reset the clock.
            if (self._camera or inspection.camera) == inspection.camera:
                return Received(inspection, _bytes(map_payload), _bytes(preview))
        return None

    def results(self, idle_s: float | None = None) -> Iterator[Received]:
        """Yield results as they come, until ``idle_s`` seconds pass without one (None: for ever)."""
        while True:
            received = self.receive(-1 if idle_s is None else int(idle_s * 1000))
            if received is None:
                return
            yield received

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        self._context.term()


def _bytes(view: memoryview | None) -> bytes | None:
    return None if view is None else bytes(view)


def ask_status(address: str, timeout_s: float = 2.0) -> dict[str, Any]:
    """Return a running station's status; ``StationError`` if nothing, or no station, answers at ``address``."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with signals_held_back():
            sock = context.socket(zmq.REQ)
        sock.connect(address)
        sock.send(b"status")
        if not sock.poll(int(timeout_s * 1000)):
            raise StationError(f"no station answers at {address} within {timeout_s:g} s: is `edgead run` up?")
        return _station_status(sock.recv(), address)
    finally:
        context.destroy(linger=0)


def _station_status(answer: bytes, address: str) -> dict[str, Any]:
    try:
        status: Any = json.loads(answer)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested without end
        status = None
    # What `edgead status` prints by name; a newer station may say more.
    if not (isinstance(status, dict) and {"station", "state", "ready", "cameras"} <= status.keys()):
        raise StationError(
            f"expected a station's status from {address}, found {answer[:60]!r}: something else answers there; "
            "give the status address of the station file"
        )
    return cast("dict[str, Any]", status)
