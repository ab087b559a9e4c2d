"""How a signal or another thread reaches the host's loop: a flag, and a byte in a socket that the loop polls."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any


class Call(Enum):
    """What the loop is asked for."""

    STOP = "stop"
    """Drain and end."""
    APPLY = "apply"
    """Read the station file again."""
    ERRAND = "errand"
    """An errand is done."""


class Wake:
    """Both ends of the socket. Calls after ``close`` do nothing.

    What is asked for is a flag, never the byte: a socket that is full takes no byte more, and a stop must not be lost.
    """

    def __init__(self) -> None:
        self._asked = dict.fromkeys(Call, False)
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._reader.fileno()

    def call(self, what: Call) -> None:
        """Ask for something; safe from a signal handler and from any thread."""
        self._asked[what] = True  # before the byte: whoever reads that must find this
        with suppress(OSError):  # it has ended already; a full socket means that it wakes up anyway
            self._writer.send(b"x")

    def take(self) -> set[Call]:
        """Return what was asked for since the last call."""
        with suppress(BlockingIOError):
            self._reader.recv(4096)
        found = {call for call in Call if self._asked[call]}
        for call in found:  # one that comes between these two lines brings a byte of its own, and is part of this
            self._asked[call] = False
        return found

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()

    @contextmanager
    def signals(self) -> Iterator[bool]:
        """Have SIGTERM and SIGINT stop the host and SIGHUP apply its file, where this is the main thread.

        Elsewhere signals are not ours, and False is what the context gives. They are taken to the very end of a host:
        a second SIGTERM must not cut short what the first one began.
        """
        calls = {signal.SIGTERM: Call.STOP, signal.SIGINT: Call.STOP, signal.SIGHUP: Call.APPLY}

        def handle(number: int, _frame: Any) -> None:
            self.call(calls[signal.Signals(number)])

        try:
            before = {number: signal.signal(number, handle) for number in calls}
        except ValueError:
            yield False
            return
        try:
            yield True
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
