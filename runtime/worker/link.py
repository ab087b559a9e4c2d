"""The line between host and worker: small msgpack records over a Unix packet socket.

One packet is one record, so nothing needs framing, and a worker's death is an end-of-file on the host's side at once,
whatever killed it. Pixels and maps travel in the slots (``runtime.worker.slots``), never here.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import msgpack

from runtime.errors import StationError

#: A record is a few hundred bytes; error details are cut to fit.
MAX_RECORD_BYTES = 64 * 1024
#: Longest error text in a record.
MAX_DETAIL_CHARACTERS = 300
#: Longest text of a worker that could not load: room for the numbers of all golden frames that failed, with figures.
MAX_REFUSAL_CHARACTERS = 1500


class Link:
    """One end of the line. ``receive``: None when there is nothing, ``EOFError`` when the other side is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._packet = bytearray(MAX_RECORD_BYTES)  # one for all: a fresh one per record is touched for the first time

    @classmethod
    def pair(cls) -> tuple[Link, socket.socket]:
        """Return the host's end (non-blocking) and the bare socket to hand to the worker process."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        return cls(here), there

    @classmethod
    def adopt(cls, fd: int) -> Link:
        """Return the worker's end (blocking) from an inherited descriptor."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def send(self, record: dict[str, Any]) -> None:
        """Send one record; raises ``EOFError`` when the other side is gone or has stopped reading."""
        try:
            self._socket.send(msgpack.packb(record))
        except (BrokenPipeError, ConnectionError, BlockingIOError) as error:
            raise EOFError(f"the other end does not take records: {error}") from error

    def receive(self) -> dict[str, Any] | None:
        """Return the next record, or None if a non-blocking end has none.

        Raises ``EOFError`` when the other side is gone, ``StationError`` for a packet that is not a record.
        """
        try:
            size = self._read()
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise EOFError(str(error)) from error
        if not size:
            raise EOFError("the other end closed")
        try:
            record = msgpack.unpackb(self._packet[:size])
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise StationError(f"a worker sent a damaged record: {error}") from error
        if not isinstance(record, dict):
            raise StationError(f"a worker sent {type(record).__name__} where a record was expected")
        return record

    def _read(self) -> int:
        try:
            return self._socket.recv_into(self._packet)
        except ConnectionResetError:  # once, where the other side ended with records unread: first what it had said
            return self._socket.recv_into(self._packet)

    def close(self) -> None:
        """Close this end; the other side sees end-of-file."""
        with contextlib.suppress(OSError):
            self._socket.close()


def one_line(error: BaseException, most: int = MAX_DETAIL_CHARACTERS) -> str:
    """Return an exception's type and text on one line, at most ``most`` characters of it."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    # A file name in the text may hold what UTF-8, and so the link, cannot carry.
    return text.encode("utf-8", "replace").decode()[:most]
