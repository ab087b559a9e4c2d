"""The pipeline: whatever happens in whatever order, every admitted frame leaves exactly once and no slot is lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.frame import FrameHeader, PixelFormat
from runtime.inspection import ErrorWord
from runtime.lane.pipeline import MAX_IN_FLIGHT, WAITING_ERROR, Pipeline, Ticket

HEADER = FrameHeader("top", 1, 0, 1, 1, PixelFormat.MONO8, 0)
DEADLINE_NS = 100


class AnyOrder(RuleBasedStateMachine):
    """Drives a pipeline in any order beside a plain model of it: two lists and a tally of who left.

    ``queue``: who waits, oldest first. ``flight``: who is with the worker, oldest first, left or not.
    """

    @initialize(limit=st.integers(1, 4))
    def begin(self, limit: int) -> None:
        """Start empty."""
        self.pipeline = Pipeline(limit, DEADLINE_NS)
        self.now_ns = 0
        self.admitted: dict[int, Ticket] = {}
        self.left: Counter[int] = Counter()
        self.queue: list[Ticket] = []
        self.flight: list[Ticket] = []
        self.late = 0

    @rule(count=st.integers(1, 3))
    def admit(self, count: int) -> None:
        """Take frames in unless the queue is full, each into a slot nobody uses."""
        for number in range(len(self.admitted) + 1, len(self.admitted) + 1 + count):
            self._admit(number)

    def _admit(self, number: int) -> None:
        ticket = self.pipeline.admit(number, HEADER, self.now_ns, 0)
        assert (ticket is None) is (len(self.queue) >= self.pipeline.queue_limit)
        if ticket is not None:
            assert ticket.slot not in {other.slot for other in self.queue + self.flight}
            assert 0 <= ticket.slot < self.pipeline.slot_count
            assert ticket.deadline_ns == self.now_ns + DEADLINE_NS
            self.admitted[number] = ticket
            self.queue.append(ticket)

    @rule(times=st.integers(1, MAX_IN_FLIGHT + 1))
    def dispatch(self, times: int) -> None:
        """Send the oldest waiting frames to a worker, as long as it can take one more."""
        for _ in range(times):
            self._dispatch()

    def _dispatch(self) -> None:
        ticket = self.pipeline.dispatch(self.now_ns)
        if self.queue and len(self.flight) < MAX_IN_FLIGHT:
            assert ticket is self.queue.pop(0)
            self.flight.append(ticket)
        else:
            assert ticket is None

    @precondition(lambda self: self.flight)
    @rule()
    def answer(self) -> None:
        """Answer the oldest frame in flight: that gives its ticket, or counts as late if it has left."""
        oldest = self.flight.pop(0)
        if self.left[oldest.number]:
            self.late += 1
            assert self.pipeline.answered(oldest.number, self.now_ns) is None
        else:
            assert self.pipeline.answered(oldest.number, self.now_ns) is oldest
            self.left[oldest.number] += 1

    @rule()
    def answer_out_of_step(self) -> None:
        """Answer any other frame than the oldest: that raises and changes nothing."""
        number = self.flight[-1].number if len(self.flight) > 1 else -1
        with pytest.raises(ValueError, match="expected an answer to the first of"):
            self.pipeline.answered(number, self.now_ns)

    @rule(step_ns=st.sampled_from([0, 1, DEADLINE_NS - 1, DEADLINE_NS]))
    def expire(self, step_ns: int) -> None:
        """Let time pass: exactly the overdue frames that have not left leave, each with the place it was in."""
        self.now_ns += step_ns
        expected = [(t, True) for t in self.flight if self._is_overdue(t)]
        expected += [(t, False) for t in self.queue if self._is_overdue(t)]
        assert self.pipeline.expired(self.now_ns) == expected
        self.left.update(ticket.number for ticket, _ in expected)
        self.queue = [ticket for ticket in self.queue if not self.left[ticket.number]]

    def _is_overdue(self, ticket: Ticket) -> bool:
        return ticket.deadline_ns <= self.now_ns and not self.left[ticket.number]

    @rule(begun=st.booleans())
    def lose(self, begun: bool) -> None:
        """Lose the worker: it costs the frame it had begun, if any; the others wait again, as if never sent."""
        victim = self.pipeline.lost(begun=begun)
        if not self.flight:
            assert victim is None
            return
        untouched = [*self.flight]
        if begun:
            oldest = untouched.pop(0)
            assert victim is (None if self.left[oldest.number] else oldest)
            self.left[oldest.number] = 1
        else:
            assert victim is None
        self.queue = [ticket for ticket in untouched if not self.left[ticket.number]] + self.queue
        assert all(ticket.dispatched_ns == 0 for ticket in self.queue)
        self.flight = []

    def drain(self) -> None:
        """Stop: everything that has not left leaves, oldest first."""
        expected = [ticket for ticket in self.flight if not self.left[ticket.number]] + self.queue
        assert self.pipeline.drained() == expected
        self.left.update(ticket.number for ticket in expected)
        self.queue, self.flight = [], []

    @invariant()
    def nobody_leaves_twice_and_nobody_is_lost(self) -> None:
        """Who has not left is in the queue or in flight, and counted."""
        assert max(self.left.values(), default=0) <= 1
        inside = [number for number in self.admitted if not self.left[number]]
        assert inside == [ticket.number for ticket in self.flight + self.queue if not self.left[ticket.number]]
        assert self.pipeline.unanswered == len(inside)
        assert self.pipeline.late_answers == self.late

    @invariant()
    def every_slot_is_free_or_held_once(self) -> None:
        """Free slots and slots held make up all slots, each once."""
        held = [ticket.slot for ticket in self.queue + self.flight]
        assert sorted([*held, *self.pipeline._free]) == list(range(self.pipeline.slot_count))

    @invariant()
    def the_queue_is_bounded(self) -> None:
        """Only what a dead worker gave back may stand above the limit."""
        assert self.pipeline.waiting == len(self.queue) <= self.pipeline.queue_limit + MAX_IN_FLIGHT

    @invariant()
    def the_clocks_are_right(self) -> None:
        """Deadlines are the earliest of those inside; the worker is busy while it holds a frame."""
        inside = [self.admitted[number].deadline_ns for number in self.admitted if not self.left[number]]
        assert self.pipeline.next_deadline_ns() == min(inside, default=None)
        assert (self.pipeline.busy_since_ns is None) is (not self.flight)

    def teardown(self) -> None:
        """In the end the station stops, and then everybody has left exactly once."""
        if hasattr(self, "pipeline"):
            self.drain()
            self.every_slot_is_free_or_held_once()
            self.nobody_leaves_twice_and_nobody_is_lost()
            assert [self.left[number] for number in self.admitted] == [1] * len(self.admitted)


TestAnyOrder: Any = AnyOrder.TestCase


def test_the_newest_frame_is_refused_when_the_queue_is_full():
    """Frames nearer to their reject gate keep their place."""
    pipeline = Pipeline(queue_limit=2, deadline_ns=DEADLINE_NS)
    taken = [pipeline.admit(number, HEADER, 0, 0) for number in (1, 2, 3)]
    assert [ticket and ticket.number for ticket in taken] == [1, 2, None]


def test_the_slot_freed_last_is_used_next():
    """One frame at a time always lies in the same memory, which is in the caches, not in a cold corner of the rest."""
    pipeline = Pipeline(queue_limit=3, deadline_ns=DEADLINE_NS)
    slots = set()
    for number in range(5):
        slots.add(pipeline.admit(number, HEADER, 0, 0).slot)
        pipeline.dispatch(0)
        pipeline.answered(number, 0)
    assert len(slots) == 1


def test_hang_detection_counts_from_when_the_worker_could_begin():
    """The second frame in flight is not blamed for the time the first one took."""
    pipeline = Pipeline(queue_limit=2, deadline_ns=DEADLINE_NS)
    for number in (1, 2):
        pipeline.admit(number, HEADER, 0, 0)
        pipeline.dispatch(10)
    assert pipeline.busy_since_ns == 10
    pipeline.answered(1, 70)
    assert pipeline.busy_since_ns == 70


def test_a_frame_that_left_at_its_deadline_does_not_leave_again():
    """Neither the worker's answer, nor its death, nor the end of the station answers a frame a second time."""
    endings = (lambda p: p.answered(1, 200) or p.answered(2, 200), lambda p: p.lost(), lambda p: p.drained() or None)
    for end in endings:
        pipeline = Pipeline(queue_limit=1, deadline_ns=DEADLINE_NS)
        for number in (1, 2):
            pipeline.admit(number, HEADER, 0, 0)
            pipeline.dispatch(0)
        assert [ticket.number for ticket, held in pipeline.expired(150) if held] == [1, 2]
        assert end(pipeline) is None
        assert (pipeline.unanswered, len(pipeline._free)) == (0, pipeline.slot_count)


def test_a_deadline_is_due_when_it_comes():
    """At the deadline a frame leaves; one nanosecond before, it does not."""
    pipeline = Pipeline(queue_limit=1, deadline_ns=DEADLINE_NS)
    pipeline.admit(1, HEADER, 5, 0)
    assert pipeline.expired(104) == []
    assert [ticket.number for ticket, _ in pipeline.expired(105)] == [1]


def test_a_waiting_frame_is_told_why():
    """While no worker is ready the words are its state's own; none of them is ``none``."""
    assert WAITING_ERROR == {
        "starting": ErrorWord.DETECTOR_STARTING,
        "ready": ErrorWord.OVERLOAD,
        "degraded": ErrorWord.DETECTOR_CRASH,
        "failed": ErrorWord.DETECTOR_CRASH,
    }
