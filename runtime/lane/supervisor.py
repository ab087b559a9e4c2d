"""Starts, watches and restarts one detector worker process. Its states are those of ``runtime.lifecycle``.

A process serves one lane, or several that share it: each has a ``Seat``. Deaths, back-off, restart budget and signs of
life are the process's, counted once; the seats hear of them.

The supervisor never gives up: a station that answers NotDecidable and tries again every ``MAX_BACKOFF_S`` is better
than one that needs a person at night. But a worker that died too often says so: it is FAILED until it is ready again.

An idle worker is asked for a sign of life every second (``runtime.lane.pulse``), and now and then to answer a golden
frame again. The answers come from the loop that inspects, never from a thread beside it: one that hangs is found before
the next part. Nothing here waits for a worker, except ``gone`` for ``REAP_S`` and ``wait``.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
from typing import Any

from runtime.lane.backoff import Backoff
from runtime.lane.courtesy import hold_back, let_go
from runtime.lane.pulse import Pulse
from runtime.lane.seat import Seat
from runtime.lifecycle import State
from runtime.worker.door import Door
from runtime.worker.slots import Slots

log = logging.getLogger("edgead.host")

#: How long the host's loop may stand still to learn how a worker ended: every camera waits meanwhile.
REAP_S = 0.02
#: How long a worker may take to end after "stop" before it is killed.
STOP_S = 3.0


class Supervisor:
    """One worker process and the seats in it. Times are monotonic nanoseconds.

    ``start_timeout_s`` and ``hang_s``: longest time to become ready and to answer anything. More than
    ``restart_budget`` deaths within ``restart_window_s`` are FAILED. ``self_test_s``: how often an idle worker answers
    a golden frame; 0: never. ``shared``: more than one lane may come.
    """

    def __init__(
        self,
        *,
        shared: bool = False,
        start_timeout_s: float,
        hang_s: float,
        restart_budget: int = 10,
        restart_window_s: float = 1800.0,
        self_test_s: float = 60.0,
    ) -> None:
        self.state = State.STARTING
        self.seats: list[Seat] = []
        self.deaths = 0
        #: Why the last worker ended, and that with how its process did.
        self.why = self.last_error = ""
        self._blamed: list[Seat] = []
        #: The seat whose lane the worker owes a sign of life.
        self.asked: Seat | None = None
        #: When the worker last said anything.
        self.heard_ns = 0
        self.started_ns = self.start_at_ns = 0
        self._is_shared = shared
        self.start_timeout_ns = int(start_timeout_s * 1e9)
        self._hang_ns = int(hang_s * 1e9)
        self._backoff = Backoff(restart_budget, int(restart_window_s * 1e9))
        self._process: subprocess.Popen[bytes] | None = None
        self._dying: list[subprocess.Popen[bytes]] = []
        self._door: Door | None = None
        self._is_held_back = False
        self._ready_ns: int | None = None
        self._pulse = Pulse(int(self_test_s * 1e9))
        self._dismissed_ns: int | None = None

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
        self.start_timeout_ns = int(start_timeout_s * 1e9)
        self._hang_ns = int(hang_s * 1e9)
        self._backoff.budget, self._backoff.window_ns = restart_budget, int(restart_window_s * 1e9)
        self._pulse.self_test_ns = int(self_test_s * 1e9)

    @property
    def name(self) -> str:
        """The lanes it serves, for logs."""
        return ", ".join(seat.name for seat in self.seats) or "of no camera"

    @property
    def pid(self) -> int | None:
        """Process id of the living worker."""
        return self._process.pid if self._process else None

    @property
    def is_closed(self) -> bool:
        """Whether its last seat was given up: nobody may sit down any more."""
        return self.state is State.STOPPING

    # --- seats --------------------------------------------------------------------------------------------------

    def seat(self, name: str, setup: dict[str, Any], slots: Slots) -> Seat:
        """Return a seat for one lane more; the first one's ``setup`` is what the process loads from."""
        seat = Seat(self, name, setup, slots)
        self.seats.append(seat)
        return seat

    def hand_over(self, link: socket.socket, slots_fd: int) -> None:
        """Give the living worker a lane's line and memory; ``EOFError`` if it does not take them."""
        if self._door is None:
            raise EOFError("there is no worker")
        self._door.hand_over(link, slots_fd)
        if not self._is_shared:
            self._close_door()  # the worker need not look whether somebody comes

    def leave(self, seat: Seat) -> None:
        """Forget a seat. After the last one the worker ends by itself; one that only loads is killed."""
        if self.asked is seat:
            self._forget_ping()
        self.seats.remove(seat)
        if self.seats:
            return
        is_loading = self.state is not State.READY
        self.state = State.STOPPING
        if is_loading and self._process is not None:
            self._process.kill()
        self._close_door()

    # --- its life -----------------------------------------------------------------------------------------------

    def start_if_due(self, now_ns: int) -> bool:
        """Start the process when there is none and its back-off is over; True if it was started."""
        self._dying = [process for process in self._dying if process.poll() is None]
        if self._process is not None or self.is_closed or now_ns < self.start_at_ns:
            return False
        self.started_ns, self._ready_ns = now_ns, None
        try:
            self._process = self._spawn()
        except OSError as error:  # out of memory, processes or descriptors: the machine may recover
            self.gone(now_ns, f"could not be started: {error}")
            return False
        self._is_held_back = all(seat.courteous for seat in self.seats)
        if self._is_held_back:
            hold_back(self._process.pid)
        log.info("worker %s: started, pid %d", self.name, self._process.pid)
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._door, theirs = Door.pair()
        with theirs:
            # -P: a folder named runtime/ in the current directory must not be imported instead of ours.
            command = [sys.executable, "-P", "-m", "runtime.worker.process", str(theirs.fileno())]
            return subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)

    def hurry(self) -> None:
        """Have a worker that loads out of the others' way run as they do."""
        if self._is_held_back and self._process is not None:
            let_go(self._process.pid)
        self._is_held_back = False

    def is_late(self, now_ns: int) -> bool:
        """Tell whether the process still loads after half its time to become ready."""
        is_loading = self._process is not None and self.state is not State.READY
        return is_loading and 2 * (now_ns - self.started_ns) > self.start_timeout_ns

    def ready(self, now_ns: int) -> None:
        """Note that the worker said to one of its lanes that it is ready."""
        if self.state is State.READY:
            return
        self.state = State.READY
        self._dying = [process for process in self._dying if process.poll() is None]  # else a zombie stays
        self._ready_ns = now_ns
        self._pulse.begin(now_ns)
        self.last_error = ""
        log.info("worker %s: ready", self.name)

    def gone(self, now_ns: int, why: str) -> None:
        """Bury a dead or given-up worker and plan the next start."""
        process, self._process = self._process, None
        self.deaths += 1
        self._forget_ping()
        self._close_door()
        self.why = why
        if process is not None:
            why = f"{why} ({self._kill(process)})"
        self._blamed = [seat for seat in self.seats if seat.take_begun()]
        self.last_error = why
        if self.state is State.STOPPING:
            return
        pause_s, is_spent = self._backoff.died(now_ns, self._ready_ns)
        self.state = State.FAILED if is_spent else State.DEGRADED
        self.start_at_ns = now_ns + int(pause_s * 1e9)
        log.warning("worker %s: %s; %s, restart in %.1f s", self.name, why, self.state, pause_s)

    def may_blame(self, seat: Seat) -> bool:
        """Tell whether the last death may have to do with a frame of ``seat``: it was at none of others alone."""
        return not self._blamed or seat in self._blamed

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None

    # --- signs of life ------------------------------------------------------------------------------------------

    def next_due_ns(self, seat: Seat, busy_since_ns: int | None) -> int | None:
        """Return when a ready seat is ``overdue``, or the worker is to be asked for a sign of life, or None."""
        since_ns = self._waits_since_ns(seat, busy_since_ns)
        if since_ns is not None:
            return min(max(since_ns, self.heard_ns) + self._hang_ns, since_ns + self._patience_ns)
        is_idle = self.asked is None and all(each.is_idle for each in self.seats)
        return self._pulse.due_ns if is_idle else None

    def overdue(self, seat: Seat, now_ns: int, busy_since_ns: int | None) -> str | None:
        """Tell why the worker must be given up, if it must: silent for too long, or to this seat for much too long."""
        since_ns = self._waits_since_ns(seat, busy_since_ns)
        if since_ns is None:
            return None
        for from_ns, limit_ns in (
            (max(since_ns, self.heard_ns), self._hang_ns),
            (since_ns, self._patience_ns),
        ):
            if now_ns - from_ns > limit_ns:
                return f"silent for {limit_ns / 1e9:g} s {'while idle' if self.asked is seat else 'over one frame'}"
        return None

    def _waits_since_ns(self, seat: Seat, busy_since_ns: int | None) -> int | None:
        # A ping comes before any frame the seat holds: the worker answers one lane in order.
        return self._pulse.asked_ns if self.asked is seat else busy_since_ns

    @property
    def _patience_ns(self) -> int:
        """How long one lane may hear nothing: before its frame the worker may take one of each of the others."""
        return self._hang_ns * max(1, len(self.seats))

    def beat(self, seat: Seat, now_ns: int) -> None:
        """Ask a worker that holds no frame for a sign of life, or a self-test, when one is due, through ``seat``."""
        asked = self._pulse.ask(now_ns, idle=all(each.is_idle for each in self.seats))
        if asked is not None and seat.link is not None:
            self.asked, seat.is_asked = seat, True
            with contextlib.suppress(EOFError):  # it died: whoever reads the link buries it
                seat.link.send({"op": "ping", "golden": asked})

    def alive(self, seat: Seat, now_ns: int, *, golden: bool) -> None:
        """Note the answer to ``beat``. Raises ``ValueError`` when it came to another seat than was asked through."""
        if self.asked is not seat:
            raise ValueError("expected no sign of life, nobody asked for one")
        self.asked, seat.is_asked = None, False
        self._pulse.answered(now_ns)
        for each in self.seats:  # it is the worker of all of them that was tested
            each.self_tests += golden

    def _forget_ping(self) -> None:
        self.asked = self._pulse.asked_ns = None

    # --- the end ------------------------------------------------------------------------------------------------

    def ended(self, now_ns: int) -> bool:
        """Tell whether a worker without seats is gone, without waiting; after ``STOP_S`` it is killed."""
        self._dying = [process for process in self._dying if process.poll() is None]
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self._process is None:
            return not self._dying
        if self._dismissed_ns is None:
            self._dismissed_ns = now_ns
        elif now_ns - self._dismissed_ns > STOP_S * 1e9:
            log.warning("worker: did not stop in %g s, killed", STOP_S)
            process, self._process = self._process, None
            self._kill(process)
        return self._process is None and not self._dying

    def wait(self, patience_s: float) -> None:
        """Wait so long for a worker without seats to end, then kill it."""
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                log.warning("worker: did not stop in %g s, killed", patience_s)
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
