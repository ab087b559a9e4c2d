"""Receives multipart messages without letting one hold the reader: libzmq bounds a part's size, not their number."""

from __future__ import annotations

from typing import Any

import zmq

#: Parts of an overlong message thrown away before the caller looks after something else.
DISCARD_PER_TURN = 1000


class BoundedReceiver:
    """Reads messages of at most ``most`` parts; of a longer one the first ``most`` + 1, the rest is discarded."""

    def __init__(self, sock: zmq.Socket[Any], most: int) -> None:
        self._socket = sock
        self._most = most
        self._discarding = False

    def receive(self) -> list[zmq.Frame] | None:
        """Return the next message; None when there is none, or while an overlong one is thrown away. Never blocks."""
        try:
            if self._discarding and not self._discard():
                return None
            parts = [self._part()]
            while parts[-1].more and len(parts) <= self._most:
                parts.append(self._part())
        except zmq.Again:
            return None
        self._discarding = parts[-1].more
        return parts

    def _part(self) -> zmq.Frame:
        return self._socket.recv(zmq.NOBLOCK, copy=False)

    def _discard(self) -> bool:
        """Throw parts away; True once the message's last one is gone."""
        for _ in range(DISCARD_PER_TURN):
            if not self._part().more:
                self._discarding = False
                return True
        return False
