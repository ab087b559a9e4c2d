"""The matcher against a clock of the test's own: which frame joins which trigger, and what happens to the rest."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from runtime.frame import Clock, FrameHeader, PixelFormat
from runtime.host.matcher import LATE, NO_TRIGGER, SECOND, Joined, Matcher, Open, is_same
from runtime.trigger import TriggerHeader

MS = 1_000_000
DEADLINE = 100 * MS
EARLY = 20 * MS
#: UTC at monotonic time 0.
EPOCH = 10**18


class Line:
    """One camera's matcher, with triggers and frames numbered as they come."""

    def __init__(self, *, by_order: bool = False, most: int = 4, clock: Clock = Clock.CAMERA) -> None:
        self.matcher = Matcher(by_order=by_order, most=most, early_ns=EARLY)
        self.clock = clock
        self._numbers = count(1)

    def raise_at(self, now_ms: int, trigger_id: int = 0, *, is_answered: bool = False, part_id: str = "") -> Open:
        """Raise a trigger; it has the number of its record as id unless given one."""
        number = next(self._numbers)
        header = TriggerHeader("top", trigger_id or number, part_id)
        now = now_ms * MS
        trigger = Open(number, header, EPOCH + now, now, now + DEADLINE, is_answered=is_answered)
        self.matcher.add(trigger)
        return trigger

    def frame(
        self, frame_id: int, trigger_id: int | None = None, *, session: int = 1, taken_ms: int = 0
    ) -> FrameHeader:
        """Return the header of a frame, acquired ``taken_ms`` after the test began."""
        acquired = EPOCH + taken_ms * MS
        return FrameHeader("top", session, frame_id, 2, 3, PixelFormat.MONO8, acquired, self.clock, trigger_id)

    def match_at(self, now_ms: int, header: FrameHeader):
        """Say where a frame belongs."""
        return self.matcher.match(header, now_ms * MS)

    def expired_at(self, now_ms: int) -> list[int]:
        """Return the numbers of the triggers that are due without frame."""
        return [each.number for each in self.matcher.expired(now_ms * MS)]


# --- by id ----------------------------------------------------------------------------------------------------------


def test_a_frame_joins_the_trigger_it_names_in_any_order():
    """Two triggers, frames the other way round: each joins its own, surely, and no trigger is left."""
    line = Line()
    one, two = line.raise_at(0), line.raise_at(1)
    assert line.match_at(2, line.frame(0, two.number)) == Joined(two, sure=True)
    assert line.match_at(3, line.frame(1, one.number)) == Joined(one, sure=True)
    assert (line.matcher.waiting, line.expired_at(500)) == (0, [])


def test_a_trigger_without_frame_is_due_at_its_deadline_and_only_once():
    """Nothing a nanosecond early; the trigger at its deadline; never again, and its frame is late."""
    line = Line()
    trigger = line.raise_at(7)
    assert line.matcher.next_due_ns() == 107 * MS
    assert line.matcher.expired(107 * MS - 1) == []
    assert line.matcher.expired(107 * MS) == [trigger]
    assert line.expired_at(1000) == []
    assert line.match_at(108, line.frame(0, trigger.number)) == LATE


def test_a_second_frame_of_a_trigger_is_told_so():
    """The first frame joins, the second is second."""
    line = Line()
    trigger = line.raise_at(0)
    assert line.match_at(1, line.frame(0, trigger.number)) == Joined(trigger, sure=True)
    assert line.match_at(2, line.frame(1, trigger.number)) == SECOND


def test_a_frame_that_names_no_trigger_belongs_to_nobody():
    """Matched by id, a frame without one is never given to a waiting trigger."""
    line = Line()
    line.raise_at(0)
    assert line.match_at(1, line.frame(0)) == NO_TRIGGER
    assert line.matcher.waiting == 1


def test_a_frame_that_overtook_its_trigger_waits_for_it():
    """It is held until the trigger comes, within its time; one whose trigger does not come is given back."""
    line = Line()
    early, stray = line.frame(0, 1), line.frame(1, 77)
    for header in (early, stray):
        assert line.match_at(0, header) is None
        assert line.matcher.hold(header, 0, header.frame_id)
    trigger = line.raise_at(10)
    held, outcome = line.matcher.claimed(trigger)
    assert (held.load, outcome) == (0, Joined(trigger, sure=True))
    assert line.matcher.next_due_ns() == EARLY
    assert [each.load for each in line.matcher.unclaimed(EARLY)] == [1]


def test_held_frames_are_bounded():
    """One more than the limit is not held."""
    line = Line(most=2)
    assert [line.matcher.hold(line.frame(n, 9), 0, n) for n in range(3)] == [True, True, False]


def test_an_answered_trigger_takes_its_frame_away():
    """A trigger refused at once is not given back, and its frame is late rather than another's."""
    line = Line(by_order=True)
    line.raise_at(0, is_answered=True)
    after = line.raise_at(1)
    assert line.matcher.waiting == 1
    assert line.match_at(2, line.frame(0)) == LATE
    assert line.match_at(3, line.frame(1)) == Joined(after, sure=True)


def test_an_id_used_anew_is_a_new_trigger():
    """An id whose trigger was answered can be raised again and gets its own frame."""
    line = Line()
    line.raise_at(0, 5)
    line.matcher.expired(DEADLINE)
    again = line.raise_at(200, 5)
    assert line.match_at(201, line.frame(0, 5)) == Joined(again, sure=True)


@pytest.mark.parametrize(
    ("clock", "taken_ms", "part_id", "sure"),
    [
        (Clock.CAMERA, 160, "", False),
        (Clock.CAMERA, 160, "new", True),
        (Clock.PTP, 90, "", False),
        (Clock.PTP, 160, "", True),
    ],
    ids=["nothing tells", "the part id tells", "taken before it was raised", "taken after"],
)
def test_an_id_used_anew_too_soon(clock, taken_ms, part_id, sure):
    """Within two deadlines the frame of the id's last use may still come: a join is sure where something tells."""
    line = Line(clock=clock)
    line.raise_at(0, 5)
    line.matcher.expired(DEADLINE)
    again = line.raise_at(150, 5, part_id="new")
    header = replace(line.frame(0, 5, taken_ms=taken_ms), part_id=part_id)
    assert line.match_at(165, header) == Joined(again, sure=sure)
    assert line.match_at(166, line.frame(1, 5)) == (SECOND if sure else LATE)


def test_two_open_triggers_of_one_id():
    """The frame of either may be the one that comes: joined to the one that waits, surely only by its exposure."""
    for taken_ms, sure in ((5, True), (15, False)):
        line = Line(clock=Clock.PTP)
        waits = line.raise_at(0, 5)
        line.raise_at(10, 5, is_answered=True)
        assert line.match_at(20, line.frame(0, 5, taken_ms=taken_ms)) == Joined(waits, sure=sure)


def test_what_waits_is_never_forgotten():
    """Beyond twice the limit the oldest answered trigger goes; one that waits stays, whatever comes after it."""
    line = Line(most=2)
    first = line.raise_at(0)
    for _ in range(9):
        line.raise_at(1, is_answered=True)
    assert line.matcher.waiting == 1
    assert line.expired_at(100) == [first.number]


# --- by order -------------------------------------------------------------------------------------------------------


def test_frames_join_the_oldest_trigger():
    """In order, each frame joins the trigger that waits longest."""
    line = Line(by_order=True)
    triggers = [line.raise_at(n) for n in range(3)]
    assert [line.match_at(5, line.frame(n)) for n in range(3)] == [Joined(each, sure=True) for each in triggers]


def test_after_a_trigger_without_frame_no_join_is_sure():
    """The frame after a lost one may be the late one: it is joined but not trusted, over and over."""
    line = Line(by_order=True)
    line.raise_at(0)
    assert line.expired_at(100) == [1]
    for number in range(3):
        at = 101 + 50 * number
        trigger = line.raise_at(at)
        assert line.match_at(at + 10, line.frame(number)) == Joined(trigger, sure=False)


def test_a_quiet_line_is_in_order_again():
    """After a whole deadline in which nothing came and nothing waited, order is known."""
    line = Line(by_order=True)
    line.raise_at(0)
    line.expired_at(100)
    trigger = line.raise_at(200)
    assert line.match_at(210, line.frame(0)) == Joined(trigger, sure=True)


def test_a_clock_that_compares_tells_the_order():
    """An exposure after the only open trigger was raised is that part's; one from before it is late."""
    line = Line(by_order=True, clock=Clock.PTP)
    line.raise_at(0)
    line.expired_at(100)
    trigger = line.raise_at(150)
    assert line.match_at(155, line.frame(0, taken_ms=90)) == LATE
    assert line.match_at(160, line.frame(1, taken_ms=155)) == Joined(trigger, sure=True)


def test_a_gap_in_the_numbers_answers_the_triggers_of_the_lost_frames():
    """Two frames are missing: the two oldest triggers are due at once, the third gets the frame, surely."""
    line = Line(by_order=True)
    line.raise_at(0)
    line.match_at(1, line.frame(0))
    triggers = [line.raise_at(n) for n in (2, 3, 4)]
    assert line.match_at(5, line.frame(3)) == Joined(triggers[2], sure=True)
    assert line.matcher.next_due_ns() == 0
    assert line.expired_at(5) == [2, 3]


def test_a_frame_numbered_below_an_earlier_one_is_late():
    """A frame sent again after younger ones is not the next part's."""
    line = Line(by_order=True)
    line.raise_at(0)
    line.match_at(1, line.frame(3))
    line.raise_at(2)
    assert line.match_at(3, line.frame(2)) == LATE


@pytest.mark.parametrize(("triggers", "sure"), [(1, True), (2, False)])
def test_a_camera_that_began_anew(triggers, sure):
    """With one trigger open the new session's frame is its; with two, one was lost and nobody knows which."""
    line = Line(by_order=True)
    line.raise_at(0)
    line.match_at(1, line.frame(0))
    waiting = [line.raise_at(2 + n) for n in range(triggers)]
    assert line.match_at(9, line.frame(0, session=2)) == Joined(waiting[0], sure=sure)


def test_everything_comes_out_at_the_end():
    """What waits when the station ends is given back, triggers and frames, but for those answered already."""
    line = Line()
    trigger = line.raise_at(0)
    line.raise_at(0, is_answered=True)
    line.matcher.hold(line.frame(0, 9), 0, "load")
    triggers, frames = line.matcher.drained()
    assert (triggers, [each.load for each in frames]) == ([trigger], ["load"])
    assert (line.matcher.waiting, line.matcher.held, line.matcher.next_due_ns()) == (0, [], None)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"raised_ns": None}, True),
        ({"raised_ns": 6}, False),
        ({"part_id": "b"}, False),
        ({"recipe": "r"}, False),
    ],
)
def test_what_a_trigger_sent_again_looks_like(change, same):
    """Another part, recipe or time under an open id is not the trigger that waits."""
    values = {"camera": "top", "trigger_id": 1, "part_id": "a", "raised_ns": 5}
    assert is_same(TriggerHeader(**values), TriggerHeader(**(values | change))) is same
