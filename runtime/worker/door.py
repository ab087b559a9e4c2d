"""How a worker process is given the lines of lanes, one after another, while it runs: descriptors over a Unix socket.

Each lane has a link and slots of its own; both are passed here, and all that is said goes over the link. The first one
is what the process loads for. A lane that comes later costs it microseconds.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Any

from runtime.worker.link import Link
from runtime.worker.slots import Slots

#: What of a lane's setup the engine depends on: lanes that agree in these may be served by one process.
ENGINE_KEYS = (
    "builtins",
    "store",
    "template",
    "detector",
    "device",
    "priority",
    "threads",
    "engine",
    "batch_wait_ms",
)
#: What carries the descriptors: a packet of no bytes would read as the end.
_TOKEN = b"l"
#: Link and slots.
_DESCRIPTORS = 2
_BYTES = _DESCRIPTORS * array.array("i").itemsize


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A lane that was handed over, worker side: its line, its memory, and the record the host sent first."""

    link: Link
    slots: Slots
    setup: dict[str, Any]

    @property
    def engine(self) -> dict[str, Any]:
        """What it wants of an engine."""
        return {key: self.setup[key] for key in ENGINE_KEYS}

    def close(self) -> None:
        """Let it go unserved: its host sees end-of-file."""
        self.link.close()
        self.slots.close()


class Door:
    """One end. The host hands over, the worker takes."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Door, socket.socket]:
        """Return the host's end (non-blocking) and the bare socket to hand to the worker process."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        return cls(here), there

    @classmethod
    def adopt(cls, fd: int) -> Door:
        """Return the worker's end (blocking) from an inherited descriptor."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def hand_over(self, link: socket.socket, slots_fd: int) -> None:
        """Pass a lane's link and memory; the caller may close its own. ``EOFError``: the worker does not take them."""
        try:
            socket.send_fds(self._socket, [_TOKEN], [link.fileno(), slots_fd])
        except OSError as error:  # closed, full, or the system has too many descriptors on their way
            raise EOFError(f"the worker takes no line: {error}") from error

    def take(self, *, wait: bool) -> Newcomer | None:
        """Return the next lane, or None if there is none and nobody is to ``wait``; ``EOFError``: no more will come."""
        while (descriptors := self._descriptors(wait=wait)) is not None:
            link = Link.adopt(descriptors[0])
            with contextlib.suppress(EOFError):  # else it was given up meanwhile
                setup = link.receive()
                if setup is not None:
                    sizes = setup["slots"], setup["frame_bytes"], setup["answer_bytes"]
                    return Newcomer(link, Slots(descriptors[1], *sizes), setup)
            link.close()
            os.close(descriptors[1])
        return None

    def _descriptors(self, *, wait: bool) -> tuple[int, int] | None:
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        found = array.array("i")
        try:
            # Not socket.recv_fds: it drops its flags.
            token, ancillary, _, _ = self._socket.recvmsg(len(_TOKEN), socket.CMSG_LEN(_BYTES), flags)
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise EOFError(str(error)) from error
        for _, _, data in ancillary:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
        if not token or len(found) != _DESCRIPTORS:
            for fd in found:  # cut short: this process may open no more
                os.close(fd)
            raise EOFError("the host closed, or no descriptor is left")
        return found[0], found[1]

    def close(self) -> None:
        """Close this end."""
        with contextlib.suppress(OSError):
            self._socket.close()
