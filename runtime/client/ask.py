"""Asks a running host one thing by its status address: `runtime.host.control` says what it answers."""

from __future__ import annotations

import json
from typing import Any, cast

import zmq

from runtime.errors import StationError
from runtime.shell import signals_held_back


def ask(address: str, request: dict[str, Any], timeout_s: float = 10.0) -> dict[str, Any]:
    """Send one request to a running host's status address and return its answer.

    Raises ``StationError`` if nothing answers in time, or what answers is no station.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with signals_held_back():
            sock = context.socket(zmq.REQ)
        sock.connect(address)
        sock.send(json.dumps(request).encode())
        if not sock.poll(int(timeout_s * 1000)):
            raise StationError(f"no station answers at {address} within {timeout_s:g} s: is `edgead run` up?")
        answer = sock.recv()
    finally:
        context.destroy(linger=0)
    try:
        found: Any = json.loads(answer)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise StationError(
            f"expected a station's answer from {address}, found {answer[:60]!r}: something else answers there; "
            "give the status address of the station file"
        )
    return cast("dict[str, Any]", found)
