"""Jobs of a camera without a server: what is open, what repeats, what a kill leaves, what the station's word ends."""

from __future__ import annotations

import itertools
import json
import queue
from types import SimpleNamespace

import pytest

from edgead import ConfigError, Pulse, StationError
from plugins.publishers.opcua.camera import Answer, Camera, Desk
from plugins.publishers.opcua.jobs import MOST_OPEN, Jobs


@pytest.fixture
def jobs(tmp_path):
    """Return a maker of what a process reads from one file, with a clock that counts."""
    clock = itertools.count(1_000_000)
    return lambda: Jobs(tmp_path / "jobs.json", lambda: next(clock))


def test_an_open_job_is_the_same_after_a_kill(jobs):
    """A MeasId is its open job, with the time it was raised first, in the next process too, until it is closed."""
    job = jobs().start("7", "A", "")
    again = jobs()
    assert again.start("7", "A", "") == job
    assert again.close(7) == job
    assert jobs().start("7", "A", "").raised_ns > job.raised_ns


def test_another_part_under_an_open_id_is_refused(jobs):
    """A MeasId that is open with another part, recipe or spelling is refused, and nothing is changed."""
    made = jobs()
    job = made.start("7", "A", "")
    for other in (("7", "B", ""), ("7", "A", "r"), ("007", "A", "")):
        with pytest.raises(StationError, match="open for part 'A'"):
            made.start(*other)
    assert made.open == (job,)


def test_jobs_without_a_number_have_one_of_their_own(jobs):
    """Empty MeasIds are jobs each; a text is one job; no number is given twice, over a restart either."""
    made = jobs()
    found = [made.start("", "A", ""), made.start("", "A", ""), made.start("run-1", "A", "")]
    assert made.start("run-1", "A", "") == found[2]
    found.append(jobs().start("", "A", ""))
    assert len({job.number for job in found}) == 4


def test_a_client_with_the_largest_number_leaves_numbers(jobs):
    """A job without a number gets one a trigger can carry beside an open job of 2^64-1, and not that of another one."""
    made = jobs()
    first = made.start("", "A", "")
    taken = {made.start(text, "A", "").number for text in (str(2**64 - 1), str(first.number + 1))}
    number = made.start("", "A", "").number
    assert number not in taken | {first.number}
    assert number < 2**64


def test_no_more_jobs_than_a_line_needs(jobs):
    """Beyond the most open jobs another is refused."""
    made = jobs()
    for number in range(MOST_OPEN):
        made.start(str(number), "", "")
    with pytest.raises(StationError, match="open jobs"):
        made.start("more", "", "")


def test_a_damaged_file_is_said(tmp_path):
    """A file that is none of jobs is named, with what to do."""
    for text in ("{", json.dumps([{"number": 1}])):
        (tmp_path / "jobs.json").write_text(text)
        with pytest.raises(ConfigError, match="every part off the line"):
            Jobs(tmp_path / "jobs.json")


class Line:
    """A station that takes triggers, or is away."""

    def __init__(self):
        self.raised, self.alive, self.refuses = [], True, False

    def pulse(self):
        """Say whether it lives."""
        return Pulse(alive=self.alive)

    def trigger(self, *fields):
        """Take one."""
        if self.refuses:
            raise StationError("too many wait")
        self.raised.append(fields)


@pytest.fixture
def camera(tmp_path):
    """Return a maker of (camera, line, refusals), each a new process on one folder."""

    def make():
        line, refused = Line(), []
        context = SimpleNamespace(folder=tmp_path, line=line)
        feed = SimpleNamespace(is_done=lambda _: False)
        return Camera("top", context, Desk(feed, queue.SimpleQueue()), refused.append, acknowledge=True), line, refused

    return make


def test_a_refused_job_is_told_and_its_id_is_free(camera):
    """The station's refusal ends a job with its reason; the MeasId may be started with another part then."""
    made, _, refused = camera()
    assert made.start("7", "A", "") == ("7", Answer.DONE)
    refusal = made.answer(7, 0, "unknown_camera")
    assert (refusal.job.part_id, refusal.reason) == ("A", "unknown_camera")
    assert refused == ["7: unknown_camera"]
    assert made.answer(7, 0, "unknown_camera") is None, "told once"
    assert made.start("7", "B", "") == ("7", Answer.DONE)


def test_what_nobody_acknowledges_is_handed_over_once_it_was_announced(tmp_path):
    """Without acknowledgement a result is done, and its job closed, when its events were sent, and not before."""
    done = queue.SimpleQueue()
    context = SimpleNamespace(folder=tmp_path, line=Line())
    desk = Desk(SimpleNamespace(is_done=lambda _: False), done)
    made = Camera("top", context, desk, str, acknowledge=False)
    made.start("7", "A", "")
    result = delivered(5, 7, "A")
    assert made.offer(result) is result
    assert done.empty()
    assert len(made.jobs.open) == 1
    made.announced(result)
    assert done.get_nowait() is result
    assert made.jobs.open == ()


def test_what_was_not_raised_is_raised_by_the_next_process(camera):
    """A job that was written down is raised again after a kill, under the same time; a refused call leaves none."""
    made, line, _ = camera()
    made.start("7", "A", "")
    line.refuses = True
    assert made.start("8", "A", "") == ("", Answer.REFUSED)
    line.alive = False
    assert made.start("9", "A", "") == ("", Answer.HOST_LOST)
    again, other, _ = camera()
    again.begin()
    assert other.raised == line.raised
    assert [each[1] for each in other.raised] == [7]


def delivered(seq, trigger_id=None, part_id=""):
    """Return a result as the feed gives it, as far as a camera looks at it."""
    inspection = SimpleNamespace(result_id=f"r{seq}", trigger_id=trigger_id, part_id=part_id, triggered_ns=None)
    return SimpleNamespace(seq=seq, inspection=inspection)


def test_a_job_whose_result_was_taken_before_a_kill_is_closed(camera):
    """A job the station answered with a result that never comes again is closed when a later one comes."""
    made, _, _ = camera()
    made.start("7", "A", "")
    again, _, _ = camera()
    assert again.answer(7, 5, "") is None
    again.offer(delivered(6))
    assert again.jobs.open == ()


def test_a_job_stays_open_until_its_result_is_acknowledged(camera):
    """Later results and the station's word do not close a job whose result waits: called again it is the same job."""
    made, line, _ = camera()
    made.start("7", "A", "")
    made.answer(7, 5, "")
    made.offer(delivered(5, 7, "A"))
    made.offer(delivered(6))
    made.answer(7, 5, "")
    made.offer(delivered(7))
    assert [job.number for job in made.jobs.open] == [7]
    assert made.start("7", "A", "") == ("7", Answer.DONE)
    assert len({each[-1] for each in line.raised}) == 1, "raised under one time"
