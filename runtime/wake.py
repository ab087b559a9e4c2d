"""How a signal or another thread reaches the host's loop: a byte in a socket that the loop polls."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any


class Call(Enum):
    """What the loop is asked for."""

    STOP = b"s"
    """Drain and end."""
    APPLY = b"a"
    """Read the station file again."""
    ERRAND = b"e"
    """An errand is done."""


class Wake:
    """Both ends of the socket. Calls after ``close`` do nothing."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._reader.fileno()

    def call(self, what: Call) -> None:
        """Ask for something; safe from a signal handler and from any thread."""
        with suppress(OSError):  # it has ended already; a full socket means that it wakes up anyway
            self._writer.send(what.value)

    def take(self) -> set[Call]:
        """Return what was asked for since the last call."""
        try:
            asked = self._reader.recv(4096)
        except BlockingIOError:
            return set()
        return {call for call in Call if call.value in asked}

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Have SIGTERM and SIGINT stop the host and SIGHUP apply its file, where this is the main thread.

        Elsewhere signals are not ours. They are taken to the very end of a host: a second SIGTERM must not cut short
        what the first one began.
        """
        calls = {signal.SIGTERM: Call.STOP, signal.SIGINT: Call.STOP, signal.SIGHUP: Call.APPLY}

        def handle(number: int, _frame: Any) -> None:
            self.call(calls[signal.Signals(number)])

        try:
            before = {number: signal.signal(number, handle) for number in calls}
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
