"""Starts, watches and restarts one detector worker process.

States::

    STARTING --ready--> READY --died or hung--> RESTARTING --ready--> READY
        |                 |                        |  ^
        +--died-----------|--------> RESTARTING <--+  | (back-off grows while it keeps dying)
                          +--stop--> STOPPED  (from every state)

The supervisor never gives up: a station that answers NotDecidable and tries again every ``MAX_BACKOFF_S`` is better
than one that needs a person at night. Nothing here waits for a worker, except ``gone`` for ``REAP_S`` and ``stop``.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from enum import StrEnum
from typing import Any

from runtime.link import Link
from runtime.slots import Slots

log = logging.getLogger("edgead.host")

#: First and largest pause before a restart, seconds; doubled at every death of a worker that was not healthy yet.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 30.0
#: A worker that has been ready this long was healthy: its death starts the back-off anew.
HEALTHY_S = 60.0
#: How long the host's loop may stand still to learn how a worker ended: every camera waits meanwhile.
REAP_S = 0.02
#: How long a worker may take to end after "stop" before it is killed.
STOP_S = 3.0


class WorkerState(StrEnum):
    """Where the worker is in its life; see the drawing in the module docstring."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class Supervisor:
    """One worker process and its link. ``setup``: the record the worker loads from. Times are monotonic nanoseconds."""

    def __init__(
        self, name: str, setup: dict[str, Any], slots: Slots, *, start_timeout_s: float, hang_s: float
    ) -> None:
        self.name = name
        self.state = WorkerState.STARTING
        self.restarts = 0
        self.last_error = ""
        self._setup = setup
        self._slots = slots
        self._start_timeout_ns = int(start_timeout_s * 1e9)
        self._hang_ns = int(hang_s * 1e9)
        self._process: subprocess.Popen[bytes] | None = None
        self._dying: list[subprocess.Popen[bytes]] = []
        self._link: Link | None = None
        self._started_ns = 0
        self._ready_ns: int | None = None
        self._start_at_ns = 0
        self._backoff_s = FIRST_BACKOFF_S

    @property
    def link(self) -> Link | None:
        """The line to a living worker, to poll for reading."""
        return self._link

    @property
    def pid(self) -> int | None:
        """Process id of the living worker."""
        return self._process.pid if self._process else None

    def start_if_due(self, now_ns: int) -> bool:
        """Start the process when there is none and its back-off is over; True if it was started."""
        self._dying = [process for process in self._dying if process.poll() is None]
        if self._process is not None or self.state is WorkerState.STOPPED or now_ns < self._start_at_ns:
            return False
        self._started_ns, self._ready_ns = now_ns, None
        try:
            self._process = self._spawn()
        except OSError as error:  # out of memory, processes or descriptors: the machine may recover
            self.gone(now_ns, f"could not be started: {error}")
            return False
        log.info("worker %s: started, pid %d", self.name, self._process.pid)
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._link, theirs = Link.pair()
        with theirs:
            # Before the process exists: the record waits in the socket, whether or not the process lives to read it.
            self._link.send(self._setup)
            # -P: a folder named runtime/ in the current directory must not be imported instead of ours.
            command = [sys.executable, "-P", "-m", "runtime.worker", str(theirs.fileno()), str(self._slots.fd)]
            return subprocess.Popen(command, pass_fds=(theirs.fileno(), self._slots.fd), stdin=subprocess.DEVNULL)

    def next_due_ns(self, busy_since_ns: int | None) -> int | None:
        """Return when ``start_if_due`` or ``overdue`` next has something to do, or None."""
        if self.state is WorkerState.STOPPED:
            return None
        if self._process is None:
            return self._start_at_ns
        if self.state is not WorkerState.READY:
            return self._started_ns + self._start_timeout_ns
        return None if busy_since_ns is None else busy_since_ns + self._hang_ns

    def overdue(self, now_ns: int, busy_since_ns: int | None) -> str | None:
        """Tell why the worker must be given up, if it must: not ready in time, or silent over a frame."""
        if self._process is None:
            return None
        if self.state is not WorkerState.READY:
            late = now_ns - self._started_ns > self._start_timeout_ns
            return f"not ready after {self._start_timeout_ns / 1e9:g} s" if late else None
        hung = busy_since_ns is not None and now_ns - busy_since_ns > self._hang_ns
        return f"silent for {self._hang_ns / 1e9:g} s over one frame" if hung else None

    def ready(self, now_ns: int) -> None:
        """Note that the worker said it is ready."""
        self.state = WorkerState.READY
        self._ready_ns = now_ns
        self.last_error = ""
        log.info("worker %s: ready", self.name)

    def gone(self, now_ns: int, why: str) -> None:
        """Bury a dead or given-up worker and plan the next start."""
        process, self._process = self._process, None
        if self._link is not None:
            self._link.close()
            self._link = None
        if process is not None:
            why = f"{why} ({self._kill(process)})"
        if self._ready_ns is not None and now_ns - self._ready_ns > HEALTHY_S * 1e9:
            self._backoff_s = FIRST_BACKOFF_S
        self._start_at_ns = now_ns + int(self._backoff_s * 1e9)
        log.warning("worker %s: %s; restart in %.1f s", self.name, why, self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        self.state = WorkerState.RESTARTING
        self.restarts += 1
        self.last_error = why

    def send(self, record: dict[str, Any]) -> None:
        """Send a record to the living worker; ``EOFError`` if there is none or it does not read."""
        if self._link is None:
            raise EOFError("there is no worker")
        self._link.send(record)

    def dismiss(self) -> None:
        """Ask the worker to end, without waiting for it: several can end at once."""
        self.state = WorkerState.STOPPED
        if self._link is not None:
            try:
                self._link.send({"op": "stop"})
            except EOFError:
                log.debug("worker %s: already gone", self.name)
            self._link.close()
            self._link = None

    def stop(self) -> None:
        """Ask the worker to end, wait ``STOP_S``, then kill it."""
        self.dismiss()
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                log.warning("worker %s: did not stop in %g s, killed", self.name, STOP_S)
                self._kill(process)
        for each in self._dying:
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver: its next step is its last
                each.wait(STOP_S)

    def _kill(self, process: subprocess.Popen[bytes]) -> str:
        """Kill the process and tell how it ended; one that is stuck is reaped later: nobody waits for it."""
        process.kill()
        try:
            return f"exit status {process.wait(REAP_S)}"
        except subprocess.TimeoutExpired:
            self._dying.append(process)
            return "killed, not gone yet"
