"""Asks the host's loop for a sign of life, four times a second: the heartbeat that PLCs see.

The question goes to the station's status socket, which the inspection loop itself answers, in the same turn in which it
takes frames and publishes results. One question is on its way at a time, so a beat is a turn that really happened; no
timer of the publisher makes one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

import zmq

from runtime.publisher import Pulse

#: Pause between two questions, as a PLC programmer expects of a heartbeat.
ASK_S = 0.25
#: Silence after which the host counts as dead: three questions.
DEAD_S = 0.75
#: Pause after which a question without answer is asked anew, on a new connection: it went to a host that is gone.
RETRY_S = 1.0


class HostPulse:
    """A thread that asks ``address``; ``latest`` may be read from anywhere. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._beats = 0
        self._heard = float("-inf")
        self._status: Mapping[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def latest(self) -> Pulse:
        """Return the latest sign of life."""
        return Pulse(self._beats, time.monotonic() - self._heard <= DEAD_S, self._status)

    def _run(self) -> None:
        with zmq.Context() as context:
            while not self._stop.is_set():
                with context.socket(zmq.REQ) as sock:
                    sock.setsockopt(zmq.LINGER, 0)
                    sock.connect(self._address)
                    while not self._stop.is_set() and self._ask(sock):
                        self._stop.wait(ASK_S)

    def _ask(self, sock: zmq.Socket[bytes]) -> bool:
        """Ask once; False where no answer came and the connection is of no more use."""
        sock.send(b"status")
        give_up = time.monotonic() + RETRY_S
        while not sock.poll(50):
            if self._stop.is_set() or time.monotonic() > give_up:
                return False
        try:
            status = json.loads(sock.recv())
        except (ValueError, RecursionError):
            return False  # something else answers there: no sign of life
        if not isinstance(status, dict):
            return False
        self._status, self._heard, self._beats = status, time.monotonic(), self._beats + 1
        return True
