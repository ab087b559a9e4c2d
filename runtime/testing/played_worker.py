"""A worker process played by the test: a real link, real slots, no process. For tests of what the host makes of it."""

from __future__ import annotations

import socket
import subprocess
from typing import Any, cast

from runtime.lane.seat import Seat
from runtime.lane.supervisor import Supervisor
from runtime.worker.link import Link
from runtime.worker.slots import Slots


class PlayedProcess:
    """Stands where the worker's process would. ``stuck``: not even SIGKILL ends it, as in a driver's system call."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stuck = False
        self.killed = False

    def kill(self) -> None:
        """Note that it was killed."""
        self.killed = True

    def poll(self) -> int | None:
        """Return the exit status, or None while it is stuck or alive."""
        return None if self.stuck or not self.killed else -9

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status at once: -9 if it was killed; raises ``TimeoutExpired`` while it is stuck."""
        if self.stuck:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return -9 if self.killed else 0


class PlayedWorker(Seat):
    """A lane's seat in a worker that is the test. ``end``: its end of the lane's link."""

    end: Link
    #: Times it was given a line.
    starts = 0
    supervisor: PlayedSupervisor

    @property
    def process(self) -> PlayedProcess:
        """The process started last."""
        return self.supervisor.process

    def _hand_over(self, theirs: socket.socket) -> None:
        if self.starts:
            self.end.close()
        ours = theirs.dup()
        ours.settimeout(5)
        self.end = Link(ours)
        self.starts += 1  # last: a test may look on from another thread

    def played(self) -> dict[str, Any]:
        """Return the next record from the host, the setup first; ``EOFError`` when it hung up."""
        record = self.end.receive()
        if record is None:
            raise EOFError("the host sent nothing")
        return record


class PlayedSupervisor(Supervisor):
    """A supervisor that starts no process. ``process``: what stands for the one started last."""

    process: PlayedProcess
    starts = 0
    #: What starting a process raises, if anything.
    refusal: OSError | None = None

    def seat(self, name: str, setup: dict[str, Any], slots: Slots) -> PlayedWorker:
        """Return a seat whose worker's end is the test's."""
        seat = PlayedWorker(self, name, setup, slots)
        self.seats.append(seat)
        return seat

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self.refusal is not None:
            raise self.refusal
        self.starts += 1
        self.process = PlayedProcess(self.starts)
        return cast("subprocess.Popen[bytes]", self.process)
