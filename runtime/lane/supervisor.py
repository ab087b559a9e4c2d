"""Starts, watches and restarts one detector worker process. Its states are those of ``runtime.lifecycle``.

The supervisor never gives up: a station that answers NotDecidable and tries again every ``MAX_BACKOFF_S`` is better
than one that needs a person at night. But a worker that died too often says so: it is FAILED until it is ready again.

An idle worker is asked for a sign of life every second (``runtime.lane.pulse``), and now and then to answer a golden
frame again. The answers come from the loop that inspects, never from a thread beside it: one that hangs is found before
the next part. Nothing here waits for a worker, except ``gone`` for ``REAP_S`` and ``stop``.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections import deque
from typing import Any

from runtime.lane.courtesy import hold_back, let_go
from runtime.lane.pulse import Pulse
from runtime.lifecycle import State
from runtime.worker.link import Link
from runtime.worker.slots import Slots

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


class Supervisor:
    """One worker process and its link. ``setup``: the record the worker loads from. Times are monotonic nanoseconds.

    ``start_timeout_s`` and ``hang_s``: longest time to become ready and to answer anything. More than
    ``restart_budget`` deaths within ``restart_window_s`` are FAILED. ``self_test_s``: how often an idle worker answers
    a golden frame; 0: never.
    """

    def __init__(
        self,
        name: str,
        setup: dict[str, Any],
        slots: Slots,
        *,
        start_timeout_s: float,
        hang_s: float,
        restart_budget: int = 10,
        restart_window_s: float = 1800.0,
        self_test_s: float = 60.0,
    ) -> None:
        self.name = name
        self.state = State.STARTING
        #: Not started before this is False: another worker's memory is needed first.
        self.held = False
        #: Loads under idle scheduling until ``hurry``: others inspect meanwhile.
        self.courteous = False
        self.restarts = 0
        self.self_tests = 0
        self.last_error = ""
        self._setup = setup
        self._slots = slots
        self._limit(start_timeout_s, hang_s, restart_budget, restart_window_s)
        self._process: subprocess.Popen[bytes] | None = None
        self._dying: list[subprocess.Popen[bytes]] = []
        self._link: Link | None = None
        self._started_ns = 0
        self._ready_ns: int | None = None
        self._start_at_ns = 0
        self._backoff_s = FIRST_BACKOFF_S
        self._deaths_ns: deque[int] = deque()
        self._pulse = Pulse(int(self_test_s * 1e9))
        self._dismissed_ns: int | None = None

    def _limit(self, start_timeout_s: float, hang_s: float, restart_budget: int, restart_window_s: float) -> None:
        self._start_timeout_ns = int(start_timeout_s * 1e9)
        self._hang_ns = int(hang_s * 1e9)
        self._restart_budget = restart_budget
        self._restart_window_ns = int(restart_window_s * 1e9)

    def configure(
        self,
        *,
        start_timeout_s: float,
        hang_s: float,
        restart_budget: int,
        restart_window_s: float,
        self_test_s: float,
    ) -> None:
        """Take other limits from now on; the worker stays."""
        self._limit(start_timeout_s, hang_s, restart_budget, restart_window_s)
        self._pulse.self_test_ns = int(self_test_s * 1e9)

    @property
    def link(self) -> Link | None:
        """The line to a living worker, to poll for reading."""
        return self._link

    @property
    def is_asked(self) -> bool:
        """Whether the worker owes a sign of life: it was idle when asked, so it has begun none of its frames."""
        return self._process is not None and self._pulse.asked_ns is not None

    @property
    def pid(self) -> int | None:
        """Process id of the living worker."""
        return self._process.pid if self._process else None

    def start_if_due(self, now_ns: int) -> bool:
        """Start the process when there is none and its back-off is over; True if it was started."""
        self._dying = [process for process in self._dying if process.poll() is None]
        if self._process is not None or self.held or self.state is State.STOPPING or now_ns < self._start_at_ns:
            return False
        self._started_ns, self._ready_ns = now_ns, None
        try:
            self._process = self._spawn()
        except OSError as error:  # out of memory, processes or descriptors: the machine may recover
            self.gone(now_ns, f"could not be started: {error}")
            return False
        if self.courteous:
            hold_back(self._process.pid)
        log.info("worker %s: started, pid %d", self.name, self._process.pid)
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._link, theirs = Link.pair()
        with theirs:
            # Before the process exists: the record waits in the socket, whether or not the process lives to read it.
            self._link.send(self._setup)
            # -P: a folder named runtime/ in the current directory must not be imported instead of ours.
            command = [sys.executable, "-P", "-m", "runtime.worker.process", str(theirs.fileno()), str(self._slots.fd)]
            return subprocess.Popen(command, pass_fds=(theirs.fileno(), self._slots.fd), stdin=subprocess.DEVNULL)

    def next_due_ns(self, busy_since_ns: int | None) -> int | None:
        """Return when ``start_if_due``, ``overdue`` or ``beat`` next has something to do, or None."""
        if self.state is State.STOPPING or (self.held and self._process is None):
            return None
        if self._process is None:
            return self._start_at_ns
        if self.state is not State.READY:
            return self._started_ns + self._start_timeout_ns
        if self._pulse.asked_ns is not None:
            return self._pulse.asked_ns + self._hang_ns
        return self._pulse.due_ns if busy_since_ns is None else busy_since_ns + self._hang_ns

    def overdue(self, now_ns: int, busy_since_ns: int | None) -> str | None:
        """Tell why the worker must be given up, if it must: not ready in time, or silent over a frame or while idle."""
        if self._process is None:
            return None
        if self.state is not State.READY:
            late = now_ns - self._started_ns > self._start_timeout_ns
            return f"not ready after {self._start_timeout_ns / 1e9:g} s" if late else None
        asked_ns = self._pulse.asked_ns  # before any frame it holds: it answers in order
        since_ns = busy_since_ns if asked_ns is None else asked_ns
        if since_ns is None or now_ns - since_ns <= self._hang_ns:
            return None
        return f"silent for {self._hang_ns / 1e9:g} s {'over one frame' if asked_ns is None else 'while idle'}"

    def beat(self, now_ns: int, *, idle: bool) -> None:
        """Ask a ready worker that holds no frame for a sign of life, or a self-test, when one is due."""
        if self.state is not State.READY or self._link is None:
            return
        asked = self._pulse.ask(now_ns, idle=idle)
        if asked is not None:
            with contextlib.suppress(EOFError):  # it died: whoever reads the link buries it
                self._link.send({"op": "ping", "golden": asked})

    def alive(self, now_ns: int, *, golden: bool) -> None:
        """Note the worker's answer to ``beat``; ``golden``: it answered a golden frame as at calibration.

        Raises ``ValueError`` when nobody asked: the worker is then out of step.
        """
        self._pulse.answered(now_ns)
        self.self_tests += golden

    def hurry(self) -> None:
        """Have a worker that loaded out of the others' way run as they do, from now on."""
        self.courteous = False
        if self._process is not None:
            let_go(self._process.pid)

    def hurry_if_late(self, now_ns: int) -> None:
        """End the courtesy of a worker that has had half its time: on a full machine it would never be ready."""
        if self.courteous and self._process is not None and 2 * (now_ns - self._started_ns) > self._start_timeout_ns:
            log.info("worker %s: still loads after half its time, from now on at normal priority", self.name)
            self.hurry()

    def ready(self, now_ns: int) -> None:
        """Note that the worker said it is ready."""
        self.state = State.READY
        self._ready_ns = now_ns
        self._pulse.begin(now_ns)
        self.last_error = ""
        log.info("worker %s: ready", self.name)

    def gone(self, now_ns: int, why: str) -> None:
        """Bury a dead or given-up worker and plan the next start."""
        process, self._process = self._process, None
        self._pulse.asked_ns = None
        if self._link is not None:
            self._link.close()
            self._link = None
        if process is not None:
            why = f"{why} ({self._kill(process)})"
        self.last_error = why
        if self.state is State.STOPPING:
            return
        if self._ready_ns is not None and now_ns - self._ready_ns > HEALTHY_S * 1e9:
            self._backoff_s = FIRST_BACKOFF_S
        self.state = State.FAILED if self._budget_spent(now_ns) else State.DEGRADED
        pause_s = MAX_BACKOFF_S if self.state is State.FAILED else self._backoff_s
        self._start_at_ns = now_ns + int(pause_s * 1e9)
        log.warning("worker %s: %s; %s, restart in %.1f s", self.name, why, self.state, pause_s)
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        self.restarts += 1

    def _budget_spent(self, now_ns: int) -> bool:
        """Note a death; tell whether there were more within the window than the budget allows."""
        self._deaths_ns.append(now_ns)
        while now_ns - self._deaths_ns[0] > self._restart_window_ns:
            self._deaths_ns.popleft()
        return len(self._deaths_ns) > self._restart_budget

    def send(self, record: dict[str, Any]) -> None:
        """Send a record to the living worker; ``EOFError`` if there is none or it does not read."""
        if self._link is None:
            raise EOFError("there is no worker")
        self._link.send(record)

    def dismiss(self) -> None:
        """Ask the worker to end, without waiting for it: several can end at once. One that only loads is killed.

        It would not hear until it has loaded, and holds memory that the next one needs.
        """
        is_loading = self.state in (State.STARTING, State.DEGRADED, State.FAILED)
        self.state = State.STOPPING
        if is_loading and self._process is not None:
            self._process.kill()
        if self._link is not None:
            try:
                self._link.send({"op": "stop"})
            except EOFError:
                log.debug("worker %s: already gone", self.name)
            self._link.close()
            self._link = None

    def ended(self, now_ns: int) -> bool:
        """Tell whether a dismissed worker is gone, without waiting; after ``STOP_S`` it is killed."""
        self._dying = [process for process in self._dying if process.poll() is None]
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self._process is None:
            return not self._dying
        if self._dismissed_ns is None:
            self._dismissed_ns = now_ns
        elif now_ns - self._dismissed_ns > STOP_S * 1e9:
            log.warning("worker %s: did not stop in %g s, killed", self.name, STOP_S)
            process, self._process = self._process, None
            self._kill(process)
        return self._process is None and not self._dying

    def stop(self, patience_s: float = STOP_S) -> None:
        """Ask the worker to end, wait so long, then kill it."""
        self.dismiss()
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(patience_s)
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
