"""The guard of a swap: which parts after it make it certain that it must be taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.changing.guard import LEAST_PARTS, Guard
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.lane.track import MEMORY, Summary, Track
from runtime.station.config import Guard as Settings

OK, NOT_OK, UNDECIDED = Verdict.OK, Verdict.NOT_OK, Verdict.NOT_DECIDABLE
#: A lane that rejected a tenth, and left nothing undecided, within a millisecond.
BEFORE = Summary(parts=100, undecided=0.0, not_ok=0.1, latency_us=1000)


def inspection(verdict: Verdict, latency_us: int = 10, error: ErrorWord | None = None) -> Inspection:
    """Return an inspection of a verdict."""
    error = error or (ErrorWord.RESULT_BAD if verdict is UNDECIDED else ErrorWord.NONE)
    decided = {} if verdict is UNDECIDED else {"score": 1.0 if verdict is NOT_OK else 0.0, "threshold": 0.5}
    return Inspection(
        result_id="r-1",
        seq=1,
        station="s",
        camera="top",
        session=1,
        frame_id=1,
        verdict=verdict,
        error=error,
        latency_us=latency_us,
        **decided,
    )


def watch(guard: Guard, *parts: tuple[Verdict, int]) -> tuple[int, str] | None:
    """Show parts to a guard; return how many it took to violate it, and why."""
    for number, (verdict, latency_us) in enumerate(parts, 1):
        why = guard.see(verdict, latency_us)
        if why is not None:
            return number, why
    return None


@pytest.mark.parametrize(
    ("verdict", "latency_us", "number", "word"),
    [
        (UNDECIDED, 10, 3, "NotDecidable"),  # 0 % + 10 % of 20 parts are 2
        (NOT_OK, 10, 9, "NotOK"),  # 10 % + 30 % are 8
        (OK, 60_000, 3, "slower than 50.0 ms"),  # half the deadline is more than three times a millisecond
    ],
)
def test_a_rule_is_broken_with_the_part_that_makes_it_certain(verdict, latency_us, number, word):
    """One part more than a rule allows of all parts watched, and not one earlier, takes the swap back."""
    found = watch(Guard(Settings(parts=20), BEFORE, 100), *[(verdict, latency_us)] * 20)
    assert found is not None
    assert (found[0], word in found[1]) == (number, True)


def test_a_lane_that_rejected_everything_must_not_accept_everything():
    """The share of NotOK may not fall too far either: a detector gone blind calls every part good."""
    before = Summary(parts=100, undecided=0.0, not_ok=0.9, latency_us=1000)
    found = watch(Guard(Settings(parts=10), before, 100), *[(OK, 10)] * 10)
    assert found is not None
    assert (found[0], " OK" in found[1]) == (5, True)


def test_what_was_so_before_is_no_reason():
    """Parts like those before the swap keep it, and the guard is over after as many as asked for."""
    guard = Guard(Settings(parts=20), BEFORE, 100)
    assert watch(guard, *[(OK, 900)] * 18, (NOT_OK, 900), (NOT_OK, 900)) is None
    assert guard.is_over
    assert guard.see(UNDECIDED, 10**9) is None


def test_rules_that_are_off():
    """A rule that is null never takes a swap back."""
    guard = Guard(Settings(parts=20, undecided=None, verdict=None, latency=None), BEFORE, 100)
    assert watch(guard, *[(UNDECIDED, 10**9)] * 10, *[(NOT_OK, 10**9)] * 10) is None


def test_without_parts_before_only_the_undecided_count():
    """A lane that hardly inspected gives no rates to compare with, but nothing undecided is expected all the same."""
    before = Summary(parts=LEAST_PARTS - 1, undecided=1.0, not_ok=0.0, latency_us=1)
    assert watch(Guard(Settings(parts=10), before, 100), *[(NOT_OK, 10**9)] * 10) is None
    found = watch(Guard(Settings(parts=10), before, 100), *[(UNDECIDED, 10)] * 10)
    assert found is not None
    assert found[0] == 2


@given(st.lists(st.tuples(st.sampled_from([OK, NOT_OK, UNDECIDED]), st.integers(0, 10**6)), min_size=30, max_size=30))
def test_the_order_of_parts_does_not_change_the_outcome(parts):
    """Whether a swap is taken back depends on which parts came, not on their order."""
    settings = Settings(parts=30)
    outcomes = {watch(Guard(settings, BEFORE, 100), *order) is None for order in (parts, parts[::-1], sorted(parts))}
    assert len(outcomes) == 1


def test_a_track_knows_shares_and_percentile():
    """Shares are of all parts and of the decided ones; the percentile is one that occurred."""
    track = Track()
    for number in range(1, 101):
        verdict = UNDECIDED if number <= 20 else NOT_OK if number <= 40 else OK
        track.add(inspection(verdict, latency_us=number))
    assert track.summary() == Summary(parts=100, undecided=0.2, not_ok=0.25, latency_us=95)
    assert Track().summary() == Summary(0, 0.0, 0.0, 0)


def test_a_track_forgets_and_counts_on():
    """Only the latest are remembered, and what came since a count is told apart from what came before."""
    track = Track()
    for _ in range(MEMORY + 10):
        track.add(inspection(OK))
    before = track.total
    track.add(inspection(NOT_OK, latency_us=7))
    assert track.since(before) == [(NOT_OK, 7)]
    assert track.since(track.total) == []
    assert (track.total, len(track.latest)) == (MEMORY + 11, MEMORY)


@pytest.mark.parametrize("word", [ErrorWord.STOPPING, ErrorWord.BAD_COMMAND, ErrorWord.CAMERA_LOST])
def test_what_is_not_the_lanes_own_is_not_counted(word):
    """A part that was undecided for no fault of detector or template says nothing about a swap."""
    track = Track()
    track.add(inspection(UNDECIDED, error=word))
    assert track.total == 0
