"""One lane's place in a worker process: its line, and the worker's state as this lane has heard of it.

A lane takes a seat in a process of its own, or in one it shares with others (``runtime.lane.workers``); it cannot tell
the difference. Each lane hears of a death by its own line, answers for its own frames, and comes back by itself: the
process is started once, by whichever lane's turn comes first.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from runtime.lifecycle import State
from runtime.worker.link import Link
from runtime.worker.slots import Slots

if TYPE_CHECKING:
    import socket

    from runtime.lane.supervisor import Supervisor

log = logging.getLogger("edgead.host")


class Seat:
    """One lane's. ``setup``: the record the worker loads from, or joins by. Times are monotonic nanoseconds."""

    def __init__(self, supervisor: Supervisor, name: str, setup: dict[str, Any], slots: Slots) -> None:
        self.name = name
        self.state = State.STARTING
        #: Loads under idle scheduling until ``hurry``: others inspect meanwhile.
        self.courteous = False
        #: Holds no frame.
        self.is_idle = True
        #: The worker owes this lane a sign of life. It was idle when asked, so it has begun none of the lane's frames.
        self.is_asked = False
        self.restarts = 0
        #: Those of the restarts that a frame of this lane may have caused: a worker that died over the frame of another
        #: lane alone is no word against this one's.
        self.own_deaths = 0
        self.self_tests = 0
        self.last_error = ""
        self.supervisor = supervisor
        self._setup = setup
        self._slots = slots
        self._link: Link | None = None
        self._attached_ns = 0
        self._deaths = supervisor.deaths
        self._has_left = False
        self._is_held = False

    @property
    def held(self) -> bool:
        """Not to be started yet: another worker's memory is needed first."""
        return self._is_held

    @held.setter
    def held(self, held: bool) -> None:
        self._is_held = held
        if self._link is None:
            self._deaths = self.supervisor.deaths  # what happens meanwhile to those who share the process is theirs

    @property
    def link(self) -> Link | None:
        """The line to a living worker, to poll for reading."""
        return self._link

    @property
    def pid(self) -> int | None:
        """Process id of the living worker."""
        return None if self._has_left else self.supervisor.pid

    @property
    def shared_with(self) -> list[str]:
        """The other lanes that have a seat in the process."""
        return [] if self._has_left else [seat.name for seat in self.supervisor.seats if seat is not self]

    @property
    def is_bereaved(self) -> bool:
        """Whether the process has died and this lane has not taken note of it: ``gone`` does."""
        return self._deaths != self.supervisor.deaths and not (self._is_held and self._link is None)

    def configure(self, **limits: Any) -> None:
        """Take other limits from now on, for every lane of the process; the worker stays."""
        self.supervisor.configure(**limits)

    # --- coming -------------------------------------------------------------------------------------------------

    def start_if_due(self, now_ns: int) -> bool:
        """Join the process, starting it when there is none and its back-off is over; True if it was started."""
        if self._link is not None or self.held or self.state is State.STOPPING or self.is_bereaved:
            return False
        started = self.supervisor.start_if_due(now_ns)
        if self._deaths != self.supervisor.deaths:  # the machine would not start it
            self.gone(now_ns, self.supervisor.why)
        elif self.supervisor.pid is not None:
            self._join(now_ns)
        return started

    def _join(self, now_ns: int) -> None:
        try:
            self._link, theirs = Link.pair()
        except OSError as error:  # no descriptors left: the machine may recover
            self.gone(now_ns, f"could not be told of {self.name}: {error}")
            return
        self._attached_ns = now_ns
        with theirs:
            try:
                # Before the worker has the line: the record waits in it, whether or not the process lives to read it.
                self._link.send(self._setup)
                self._hand_over(theirs)
            except EOFError as error:
                self.gone(now_ns, f"could not be told of {self.name}: {error}")
        if not self.courteous:
            self.supervisor.hurry()

    def _hand_over(self, theirs: socket.socket) -> None:
        self.supervisor.hand_over(theirs, self._slots.fd)

    def hurry(self) -> None:
        """Have a worker that loaded out of the others' way run as they do, from now on."""
        self.courteous = False
        self.supervisor.hurry()

    def hurry_if_late(self, now_ns: int) -> None:
        """End the courtesy of a worker that has had half its time: on a full machine it would never be ready."""
        if self.courteous and self.supervisor.is_late(now_ns):
            log.info("worker %s: still loads after half its time, from now on at normal priority", self.name)
            self.hurry()

    def ready(self, now_ns: int) -> None:
        """Note that the worker said it is ready."""
        if self.is_bereaved:
            return  # it said so before it died
        self.state, self.last_error = State.READY, ""
        self.supervisor.ready(now_ns)

    # --- while it lives -----------------------------------------------------------------------------------------

    def next_due_ns(self, busy_since_ns: int | None) -> int | None:
        """Return when ``start_if_due``, ``overdue`` or ``beat`` next has something to do, or None."""
        if self.state is State.STOPPING or (self.held and self._link is None):
            return None
        if self.is_bereaved:
            return 0
        if self._link is None:
            return self.supervisor.start_at_ns
        if self.state is not State.READY:
            return self._loading_since_ns + self.supervisor.start_timeout_ns
        return self.supervisor.next_due_ns(self, busy_since_ns)

    @property
    def _loading_since_ns(self) -> int:
        """When the process began to load, or this lane joined one that had loaded."""
        is_loading = self.supervisor.state is not State.READY
        return self.supervisor.started_ns if is_loading else self._attached_ns

    def overdue(self, now_ns: int, busy_since_ns: int | None) -> str | None:
        """Tell why the worker must be given up, if it must: not ready in time, or silent over a frame or while idle."""
        if self._link is None or self.is_bereaved:
            return None
        if self.state is not State.READY:
            limit_ns = self.supervisor.start_timeout_ns
            return f"not ready after {limit_ns / 1e9:g} s" if now_ns - self._loading_since_ns > limit_ns else None
        return self.supervisor.overdue(self, now_ns, busy_since_ns)

    def beat(self, now_ns: int, *, idle: bool) -> None:
        """Have a ready worker that holds no frame of any lane asked for a sign of life, or a self-test, when due."""
        self.is_idle = idle
        if self.state is State.READY and self._link is not None:
            self.supervisor.beat(self, now_ns)

    def alive(self, now_ns: int, *, golden: bool) -> None:
        """Note the worker's answer to ``beat``; ``golden``: it answered a golden frame as at calibration.

        Raises ``ValueError`` when nobody asked: the worker is then out of step.
        """
        if self.is_bereaved and self.is_asked:  # said before it died: the frames behind it were begun, maybe
            self.is_asked = False
            return
        self.supervisor.alive(self, now_ns, golden=golden)

    def take_begun(self) -> bool:
        """Tell whether the worker was at a frame of this lane, and forget it: for a worker that is dead."""
        begun, self._slots.begun = self._slots.begun, False
        return begun

    def heard(self, now_ns: int) -> None:
        """Note that the worker said something."""
        self.supervisor.heard_ns = now_ns

    def send(self, record: dict[str, Any]) -> None:
        """Send a record to the living worker; ``EOFError`` if there is none or it does not read."""
        if self._link is None:
            raise EOFError("there is no worker")
        self.is_idle = False
        self._link.send(record)

    # --- going --------------------------------------------------------------------------------------------------

    def gone(self, now_ns: int, why: str) -> str:
        """Take note of a death, or give the worker up for all its lanes; return why it ended.

        The first lane that says so buries the process and plans the next start; the others hear its reason.
        """
        if self._link is not None:
            self._link.close()
            self._link = None
        if self.is_bereaved:
            why = self.supervisor.why
        elif not self._has_left:
            self.supervisor.gone(now_ns, why)
        if self.state is not State.STOPPING:
            self.state = self.supervisor.state
            self.restarts += self.supervisor.deaths - self._deaths
            self.own_deaths += self.supervisor.deaths - self._deaths if self.supervisor.may_blame(self) else 0
        self._deaths = self.supervisor.deaths
        self.last_error = self.supervisor.last_error
        self.is_idle, self.is_asked = True, False
        return why

    def dismiss(self) -> None:
        """Give the seat up; with the last one the worker is asked to end, without waiting for it.

        Several can end at once. A process that only loads is killed: it would not hear until it has loaded, and holds
        memory that the next one needs.
        """
        if self.state is State.STOPPING:
            return
        self.state = State.STOPPING
        self._has_left = bool(self.shared_with)
        if self._link is not None:
            with contextlib.suppress(EOFError):  # already gone
                self._link.send({"op": "stop"})
        self.supervisor.leave(self)
        if self._link is not None:
            self._link.close()
            self._link = None

    def ended(self, now_ns: int) -> bool:
        """Tell whether a dismissed worker is gone, without waiting, or goes on with other lanes."""
        return self._has_left or self.supervisor.ended(now_ns)

    def stop(self, patience_s: float) -> None:
        """Give the seat up; the last one waits so long for the worker to end, then kills it."""
        self.dismiss()
        if not self._has_left:
            self.supervisor.wait(patience_s)
