"""Which frame is where: the bookkeeping of one camera's frames, without sockets, processes or clocks of its own.

Rules:

* Every admitted frame leaves exactly once, as a ``Ticket`` returned by ``answered``, ``expired``, ``lost`` or
  ``drained``.
* A frame may wait (queue, at most ``queue_limit``) and be with the worker (at most ``MAX_IN_FLIGHT``). When the queue
  is full the *newest* frame is the one refused: the frames already waiting are nearer to their reject gate.
* At its deadline a frame leaves undecided. If it was with the worker, its slot stays taken until the worker answers or
  dies, and the late answer is counted and dropped: no frame is answered twice.
* The worker handles its frames in order, so when it dies only the oldest one it holds can have hurt it: that one leaves
  undecided, the others go back to the head of the queue (which may then hold ``MAX_IN_FLIGHT`` above its limit). Where
  the worker died over something else, before it began any of them, all go back.

All times are integers on one monotonic clock, in nanoseconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runtime.frame import FrameHeader
from runtime.inspection import ErrorWord

#: One frame being inspected and one already in the worker's hands, so that it never waits for the host between two.
MAX_IN_FLIGHT = 2


@dataclass(slots=True)
class Ticket:
    """One admitted frame."""

    number: int
    header: FrameHeader
    slot: int
    admitted_ns: int
    received_ns: int
    deadline_ns: int
    dispatched_ns: int = 0


class Pipeline:
    """The frames of one camera between admission and answer."""

    def __init__(self, queue_limit: int, deadline_ns: int) -> None:
        self.queue_limit = queue_limit
        self.deadline_ns = deadline_ns
        #: Slots needed: one for every frame that can wait or be with the worker.
        self.slot_count = queue_limit + MAX_IN_FLIGHT
        self.late_answers = 0
        self._free = deque(range(self.slot_count))  # the one freed last is taken first: its memory is still cached
        self._queue: deque[Ticket] = deque()
        self._in_flight: deque[Ticket] = deque()  # in the order sent
        self._expired_in_flight: set[int] = set()

    @property
    def waiting(self) -> int:
        """Frames in the queue."""
        return len(self._queue)

    @property
    def unanswered(self) -> int:
        """Frames admitted and not yet left."""
        return len(self._queue) + len(self._in_flight) - len(self._expired_in_flight)

    @property
    def busy_since_ns(self) -> int | None:
        """When the oldest frame the worker holds was sent to it, or None: the clock of hang detection."""
        return self._in_flight[0].dispatched_ns if self._in_flight else None

    def admit(
        self, number: int, header: FrameHeader, now_ns: int, received_ns: int, deadline_ns: int | None = None
    ) -> Ticket | None:
        """Take a frame in and give it a slot; None when the queue is full: the caller answers at once (overload).

        ``number`` identifies the ticket and is never used twice; ``now_ns`` never goes back; ``received_ns`` is the
        calendar time kept for the record. ``deadline_ns``: of this frame, where it has one of its own.
        """
        if len(self._queue) >= self.queue_limit or not self._free:
            return None
        due_ns = now_ns + self.deadline_ns if deadline_ns is None else deadline_ns
        ticket = Ticket(number, header, self._free.popleft(), now_ns, received_ns, due_ns)
        self._queue.append(ticket)
        return ticket

    def dispatch(self, now_ns: int) -> Ticket | None:
        """Move the next frame to the worker, if it can take one more; the caller sends it."""
        if not self._queue or len(self._in_flight) >= MAX_IN_FLIGHT:
            return None
        ticket = self._queue.popleft()
        # Hang detection runs from when the worker could start on it, which is when the one before it is done.
        ticket.dispatched_ns = now_ns
        self._in_flight.append(ticket)
        return ticket

    def answered(self, number: int, now_ns: int) -> Ticket | None:
        """Take the worker's answer to its oldest frame; None if that frame left at its deadline (a late answer).

        Raises ``ValueError`` when ``number`` is not the frame the worker must answer next: it is then out of step.
        """
        if not self._in_flight or self._in_flight[0].number != number:
            held = [ticket.number for ticket in self._in_flight]
            raise ValueError(f"expected an answer to the first of {held}, found one to {number}")
        ticket = self._in_flight.popleft()
        self._free.appendleft(ticket.slot)
        if self._in_flight:
            self._in_flight[0].dispatched_ns = now_ns
        if number in self._expired_in_flight:
            self._expired_in_flight.remove(number)
            self.late_answers += 1
            return None
        return ticket

    def expired(self, now_ns: int) -> list[tuple[Ticket, bool]]:
        """Take out every frame whose deadline has come; the flag tells whether the worker was holding it."""
        overdue: list[tuple[Ticket, bool]] = []
        for ticket in self._in_flight:
            if ticket.deadline_ns <= now_ns and ticket.number not in self._expired_in_flight:
                self._expired_in_flight.add(ticket.number)
                overdue.append((ticket, True))
        # Not the first ones only: the deadline may have been changed while frames waited.
        for ticket in [each for each in self._queue if each.deadline_ns <= now_ns]:
            self._queue.remove(ticket)
            self._free.appendleft(ticket.slot)
            overdue.append((ticket, False))
        return overdue

    def next_deadline_ns(self) -> int | None:
        """Return the earliest deadline of a frame that has not left, or None."""
        held = (ticket.deadline_ns for ticket in self._in_flight if ticket.number not in self._expired_in_flight)
        waiting = (ticket.deadline_ns for ticket in self._queue)
        return min((*held, *waiting), default=None)

    def lost(self, *, begun: bool = True) -> Ticket | None:
        """Forget the dead worker and requeue what it had not begun; return its frame, unless that left already.

        ``begun`` False: the worker was at something else before the first of its frames.
        """
        untouched, victim = [*self._in_flight], None
        if begun and untouched:
            victim = untouched.pop(0)
            self._free.appendleft(victim.slot)
        self._in_flight.clear()
        for ticket in reversed(untouched):
            if ticket.number in self._expired_in_flight:
                self._free.appendleft(ticket.slot)
            else:
                ticket.dispatched_ns = 0  # it waits again: its time in the queue is not over
                self._queue.appendleft(ticket)
        left_already = victim is not None and victim.number in self._expired_in_flight
        self._expired_in_flight.clear()
        return None if left_already else victim

    def drained(self) -> list[Ticket]:
        """Take out everything that has not left, whoever holds it: the station is stopping."""
        rest = [t for t in self._in_flight if t.number not in self._expired_in_flight] + list(self._queue)
        self._in_flight.clear()
        self._queue.clear()
        self._expired_in_flight.clear()
        self._free = deque(range(self.slot_count))
        return rest


#: What a frame that could not be admitted, or expired in the queue, is told while the worker is in a given state.
WAITING_ERROR = {
    "starting": ErrorWord.DETECTOR_STARTING,
    "ready": ErrorWord.OVERLOAD,
    "degraded": ErrorWord.DETECTOR_CRASH,
    "failed": ErrorWord.DETECTOR_CRASH,
}
