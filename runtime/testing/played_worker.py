"""A worker process played by the test: a real link, real slots, no process. For tests of what the host makes of it."""

from __future__ import annotations

import subprocess
from typing import Any, cast

from runtime.lane.supervisor import Supervisor
from runtime.worker.link import Link


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


class PlayedWorker(Supervisor):
    """A supervisor whose worker is the test. ``end``: its end of the link; ``process``: the one started last."""

    end: Link
    process: PlayedProcess
    starts = 0
    #: What starting a process raises, if anything.
    refusal: OSError | None = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._link, theirs = Link.pair()
        if self.refusal is not None:
            theirs.close()
            raise self.refusal
        self._link.send(self._setup)
        theirs.settimeout(5)
        if self.starts:
            self.end.close()
        self.end = Link(theirs)
        self.starts += 1
        self.process = PlayedProcess(self.starts)
        return cast("subprocess.Popen[bytes]", self.process)

    def played(self) -> dict[str, Any]:
        """Return the next record from the host, the setup first; ``EOFError`` when it hung up."""
        record = self.end.receive()
        if record is None:
            raise EOFError("the host sent nothing")
        return record
