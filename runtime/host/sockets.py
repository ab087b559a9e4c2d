"""The host's sockets: bound from the addresses of the station file, bounded in what they hold, gone without a trace.

Frames (ROUTER; cameras are DEALER), results (XPUB; subscribers are SUB), status (ROUTER; who asks is REQ), deliveries
(ROUTER; subscribers by name are DEALER).
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import zmq

from runtime.delivery.router import open_router
from runtime.errors import StationError
from runtime.station.config import Station
from runtime.wire.header import MAX_HEADER_BYTES
from runtime.wire.receiver import BoundedReceiver

#: Memory for results a subscriber has not read; beyond it libzmq drops for that one only (live view, no archive).
RESULT_BUDGET_BYTES = 64 * 1024 * 1024
LEAST_RESULTS = 16
#: Receipts kept per camera that does not read.
RECEIPT_HIGH_WATER = 1000
#: Parts of a frame message (identity, topic, header, pixels) and of a status request (identity, empty, question).
FRAME_PARTS, STATUS_PARTS = 4, 3
#: Frame messages libzmq may hold for us per camera before the camera's own queue fills.
FRAME_HIGH_WATER = 16
_IPC = "ipc://"
#: Flags of a part that others follow and of the last one, as plain integers: zmq's own are slow to combine.
_MORE, _LAST = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)


class Sockets:
    """The bound sockets of one station. The context that made them closes them; then call ``unlink``."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], station: Station, largest_answer_bytes: int) -> None:
        """Bind; ``largest_answer_bytes``: of the map and preview of one result. Raises ``StationError``."""
        self.frames = context.socket(zmq.ROUTER)
        self.frames.setsockopt(zmq.MAXMSGSIZE, max(station.max_frame_bytes, MAX_HEADER_BYTES))
        self.frames.setsockopt(zmq.RCVHWM, FRAME_HIGH_WATER)
        self.frames.setsockopt(zmq.SNDHWM, RECEIPT_HIGH_WATER)
        self.frame_messages = BoundedReceiver(self.frames, FRAME_PARTS)
        self.results = context.socket(zmq.XPUB)
        self._most_results = 0
        self.limit_results(largest_answer_bytes)
        self.results.setsockopt(zmq.XPUB_VERBOSER, 1)
        self.results.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
        # Not REP: libzmq's gets out of step, and blocks its reader, when a peer sends anything but a REQ's message.
        self.status = context.socket(zmq.ROUTER)
        self.status.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
        self.status_messages = BoundedReceiver(self.status, STATUS_PARTS)
        self.bound = {"frames": self.frames, "results": self.results, "status": self.status}
        #: Durable delivery, where the station file gives it an address.
        self.deliveries = open_router(context) if station.deliveries else None
        if self.deliveries is not None:
            self.bound["deliveries"] = self.deliveries
        self._ipc_files: list[Path] = []
        try:
            for key, sock in self.bound.items():
                self._bind(sock, key, getattr(station, key))
        except StationError:
            self.unlink()
            raise

    def limit_results(self, largest_answer_bytes: int) -> None:
        """Bound what waits for one live subscriber, those there are included, by the largest map and preview.

        Never lowered while anybody is connected: libzmq counts what a subscriber has read in steps of half the mark, so
        one that had read more than a lower mark since the last step would count as full and get nothing ever again.
        """
        most = min(1000, max(LEAST_RESULTS, RESULT_BUDGET_BYTES // largest_answer_bytes))
        self.results.setsockopt(zmq.SNDHWM, max(most, self._most_results))
        self._most_results = max(most, self._most_results)

    def _bind(self, sock: zmq.Socket[bytes], key: str, address: str) -> None:
        try:
            _claim_ipc(address)
            sock.bind(address)
        except (OSError, zmq.ZMQError) as error:
            raise StationError(
                f"cannot bind {key}: {address}: {error.strerror}; is another station running? "
                f"Change `{key}` in the station file"
            ) from error
        if address.startswith(_IPC):
            self._ipc_files.append(Path(address.removeprefix(_IPC)))

    def unlink(self) -> None:
        """Remove the files of ipc addresses, which libzmq leaves."""
        for path in self._ipc_files:
            path.unlink(missing_ok=True)


def send(sock: zmq.Socket[bytes], parts: list[bytes]) -> None:
    """Send one message without waiting. Not ``send_multipart``: it takes three times as long for small parts."""
    for part in parts[:-1]:
        sock.send(part, _MORE)
    sock.send(parts[-1], _LAST)


def _claim_ipc(address: str) -> None:
    """Make sure that nobody listens on an ipc address; ``OSError`` if somebody does, or if it cannot be found out.

    libzmq removes whatever is at the path before it binds: it would cut a running station off without a word.
    """
    path = Path(address.removeprefix(_IPC))
    if not address.startswith(_IPC) or not path.exists():
        return
    if not path.is_socket():
        raise OSError(errno.EEXIST, "there is a file of that name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left behind by a killed host
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
