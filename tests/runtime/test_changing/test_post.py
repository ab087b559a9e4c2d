"""A post around a swap, transition by transition, with played workers: who is on duty, who answers, who goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.changing.swap import SwapState
from runtime.inspection import ErrorWord, Verdict
from runtime.lane.assignment import Assignment
from runtime.lane.lane import Lane
from runtime.ledger import Event
from runtime.lifecycle import State
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.played_post import PlayedPost, guarded, one_camera
from runtime.testing.played_worker import PlayedSupervisor
from runtime.testing.station import PRODUCT, put_template, write_station

PREPARING, GUARDED, ACTIVE, KEPT, REFUSED, ROLLED_BACK = SwapState


@pytest.fixture(scope="module")
def assign(tmp_path_factory) -> Callable[..., Assignment]:
    """Return a maker of assignments of one camera to one of four templates, which differ in their threshold."""
    folder: Path = tmp_path_factory.mktemp("station")
    store = Store.create(folder / "store")
    templates = [store.template(put_template(store, Faulty(), 0.5 + number / 10)) for number in range(4)]
    camera = {"product": PRODUCT, "detector": "faulty", "deadline_ms": 100, "queue": 2}
    station = load_station(write_station(folder, {"top": camera}, max_frame_bytes=64, ledger=None))

    def make(template: int, **keys: Any) -> Assignment:
        changed = one_camera(station, **keys)
        return Assignment("top", "", changed.cameras["top"], changed, templates[template], ())

    return make


@pytest.fixture
def make(assign, monkeypatch) -> Iterator[Callable[..., PlayedPost]]:
    """Return a maker of posts whose worker is ready."""
    monkeypatch.setattr("runtime.lane.workers.Supervisor", PlayedSupervisor)
    made: list[PlayedPost] = []

    def start(**camera: Any) -> PlayedPost:
        made.append(PlayedPost(assign, **camera))
        made[-1].turn(1)
        made[-1].ready(made[-1].post.lane)
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def played(make) -> PlayedPost:
    """Return a post with a guard over ten parts."""
    return make(**guarded())


def steps(played: PlayedPost) -> list[str]:
    """Return the steps of all swaps that were told to the ledger."""
    return [detail["step"] for event, detail in played.tally.news if event is Event.SWAP]


def verdicts(played: PlayedPost) -> list[tuple[int, ErrorWord]]:
    """Return number and error word of everything that left."""
    return [(answer.number, answer.error) for _, answer in played.left]


def test_the_old_lane_inspects_until_the_new_worker_is_ready(played):
    """While the candidate loads nothing changes; when it is ready the next frame is its, and earlier ones are not."""
    old = played.post.lane
    swap = played.swap(1, **guarded())
    played.turn()
    before = played.bring()
    assert (played.post.lane, swap.state) == (old, PREPARING)
    assert played.worker(played.post.candidate).courteous
    played.ready(played.post.candidate)
    assert played.post.lane.assignment is swap.after
    assert swap.state is GUARDED
    after = played.bring()
    played.answer(old)
    played.answer(played.post.lane)
    assert [(lane.template.digest, answer.number) for lane, answer in played.left] == [
        (swap.before.template.digest, before),
        (swap.after.template.digest, after),
    ]


def test_a_swap_that_passes_its_guard(played):
    """After its parts the new one is kept, and the old worker is asked to end, ends, and gives its memory back."""
    old = played.post.lane
    swap = played.swap(1, **guarded())
    played.ready(played.post.candidate)
    played.inspect(9)
    played.turn()
    assert (swap.state, swap.parts, played.post.warm) == (GUARDED, 9, old)
    played.inspect(1)
    played.turn()
    assert (swap.state, played.post.warm) == (KEPT, None)
    assert old.worker.state is State.STOPPING
    played.worker(old).process.killed = True
    played.turn()
    assert played.post.ended == [old]
    assert [*played.post.lanes()] == [played.post.lane]
    assert steps(played) == ["begin", "guarded", "kept"]


def test_without_a_guard_the_old_lane_goes_at_once(make):
    """With ``guard: null`` a swap is over when it has taken over; the old lane still answers what it holds."""
    played = make(guard=None)
    old = played.post.lane
    number = played.bring()
    swap = played.swap(1, guard=None)
    played.ready(played.post.candidate)
    assert (swap.state, played.post.warm, played.post.leaving) == (ACTIVE, None, [old])
    assert old.worker.state is State.READY  # it holds a frame
    played.answer(old)
    assert verdicts(played) == [(number, ErrorWord.NONE)]
    assert old.worker.state is State.STOPPING


def test_a_candidate_that_is_starved_is_let_go(played, monkeypatch):
    """On a machine without time to spare a candidate keeps out of the way for half its time to load, not longer."""
    let_go: list[int] = []
    monkeypatch.setattr("runtime.lane.supervisor.let_go", let_go.append)
    swap = played.swap(1, **guarded())
    played.turn()
    played.turn(60_000)
    assert let_go == []
    played.turn(1)
    assert (len(let_go), swap.state) == (1, PREPARING)
    played.ready(played.post.candidate)
    assert swap.state is GUARDED


@pytest.mark.parametrize("how", ["failed", "died", "late", "no process"])
def test_a_candidate_has_one_attempt(played, how):
    """A candidate that fails, dies, is too late or cannot be started is refused with its reason; the old one stays."""
    old = played.post.lane
    swap = played.swap(1, **guarded())
    candidate = played.post.candidate
    if how == "no process":
        candidate.worker.supervisor.refusal = OSError("no more processes")
    played.turn()
    if how == "failed":
        played.say(candidate, {"op": "failed", "error": "TemplateError: golden frames 0, 3"})
    elif how == "died":
        played.die(candidate)
    elif how == "late":
        played.turn(120_001)
    expected = {"failed": "golden frames 0, 3", "died": "died", "late": "not ready", "no process": "no more processes"}
    assert swap.state is REFUSED
    assert expected[how] in swap.why
    assert (played.post.lane, played.post.candidate, played.post.undone) == (old, None, [swap])
    played.turn(1)
    assert candidate.worker.state is State.STOPPING
    assert steps(played) == ["begin", "refused"]


def test_a_verdict_rate_that_changes_is_taken_back(played):
    """Too many NotOK among the first parts: the old lane inspects the next, with its worker that never stopped."""
    old = played.post.lane
    played.inspect(30)
    swap = played.swap(1, **guarded())
    played.ready(played.post.candidate)
    bad = played.post.lane
    played.inspect(4, score=0.9)
    played.turn()
    assert (swap.state, played.post.lane, played.post.warm) == (ROLLED_BACK, old, None)
    assert "NotOK" in swap.why
    assert played.post.undone == [swap]
    assert bad.worker.state is State.STOPPING
    number = played.bring()
    played.answer(old)
    assert (played.left[-1][0], played.left[-1][1].number) == (old, number)
    assert played.left[-1][1].verdict is Verdict.OK
    assert steps(played) == ["begin", "guarded", "rolled_back"]


def test_a_death_under_guard_is_taken_back(played):
    """The first death of the new worker is one too many; the frames it held are its own to answer."""
    old = played.post.lane
    swap = played.swap(1, **guarded())
    played.ready(played.post.candidate)
    bad = played.post.lane
    held = [played.bring(), played.bring(), played.bring()]
    played.die(bad)
    assert (swap.state, played.post.lane) == (ROLLED_BACK, old)
    assert "died" in swap.why
    played.turn(101)  # the worker that would take up the rest does not come
    assert verdicts(played) == [(number, ErrorWord.DETECTOR_CRASH) for number in held]
    assert {lane for lane, _ in played.left} == {bad}


@pytest.mark.parametrize(
    ("at_own", "at_other", "state"),
    [(False, True, GUARDED), (True, True, ROLLED_BACK), (True, False, ROLLED_BACK), (False, False, ROLLED_BACK)],
)
def test_a_death_over_the_frame_of_a_neighbour_is_no_word_against_the_swap(make, assign, at_own, at_other, state):
    """Where lanes share a worker, a death is taken back only if the worker was at a frame of the post, or at none."""
    shared = {"worker": "shared"} | guarded()
    played = make(**shared)
    swap = played.swap(1, **shared)
    played.ready(played.post.candidate)
    neighbour = Lane(assign(1, **shared), workers=played.post._workers)
    neighbour.advance(played.now_ns)
    assert neighbour.worker.supervisor is played.post.lane.worker.supervisor
    played.post.lane._slots.begun, neighbour._slots.begun = at_own, at_other
    played.die(played.post.lane)
    assert swap.state is state
    neighbour.worker.stop(0)
    neighbour.release()
    played.worker(neighbour).end.close()


def test_a_swap_while_another_is_guarded(played):
    """The lane that passed its guard stays warm until one does; who was not proven goes when it is relieved."""
    proven = played.post.lane
    first = played.swap(1, **guarded())
    played.ready(played.post.candidate)
    unproven = played.post.lane
    second = played.swap(2, **guarded())
    played.ready(played.post.candidate)
    assert (first.state, second.state) == (ACTIVE, GUARDED)
    assert played.post.warm is proven
    assert unproven.worker.state is State.STOPPING
    played.die(played.post.lane)
    assert (second.state, played.post.lane) == (ROLLED_BACK, proven)


@pytest.mark.parametrize("how", ["beside", "stop"])
def test_what_is_taken_back_goes_to_what_inspects(make, how):
    """A swap taken back under another one's guard tells that the proven one inspects: the store will name that."""
    played = make(swap=how, **guarded())
    proven = played.post.lane
    for template in (1, 2):
        old = played.post.lane
        swap = played.swap(template, swap=how, **guarded())
        played.turn()
        if how == "stop":
            played.worker(old).process.killed = True
            played.turn()
        played.ready(played.post.coming)
    played.die(played.post.lane)
    assert (swap.state, played.post.undone) == (ROLLED_BACK, [swap])
    assert played.post.lane.assignment is swap.before is proven.assignment


def test_a_refused_candidate_leaves_no_trace_of_one_taken_back(played):
    """A candidate refused after the guard took back what it was to relieve: the store must not name that again."""
    proven = played.post.lane
    first = played.swap(1, **guarded())
    played.ready(played.post.candidate)
    second = played.swap(2, **guarded())
    played.turn()
    played.die(played.post.lane)
    assert (first.state, second.state) == (ROLLED_BACK, PREPARING)
    played.die(played.post.candidate)
    assert (second.state, second.before, played.post.undone) == (REFUSED, proven.assignment, [first, second])


def test_who_takes_back(played):
    """The ledger does not blame the guard for what the station file asked for."""
    played.swap(1, **guarded())
    played.ready(played.post.candidate)
    played.post.take_back("the station file asks for what ran before")
    assert played.tally.news[-1][1]["who"] == "host"
    assert played.post.undone == []


def test_a_second_swap_before_the_first_is_ready(played):
    """The candidate that is not ready yet gives way; only the later one ever takes over."""
    first = played.swap(1, **guarded())
    played.turn()
    candidate = played.post.candidate
    second = played.swap(2, **guarded())
    assert (first.state, played.post.undone) == (REFUSED, [])
    played.turn()
    assert candidate.worker.state is State.STOPPING
    played.ready(played.post.candidate)
    assert (second.state, played.post.lane.assignment) == (GUARDED, second.after)


def test_a_lane_that_has_failed_is_nothing_to_go_back_to(make):
    """Where the old worker had failed for good the new one is not guarded: going back would help nobody."""
    played = make(**guarded())
    while played.post.lane.worker.state is not State.FAILED:
        played.worker(played.post.lane).end.close()
        played.turn(31_000)
    swap = played.swap(1, **guarded())
    played.ready(played.post.candidate)
    assert (swap.state, played.post.warm) == (ACTIVE, None)


def test_stop_and_swap(make):
    """The new worker is started only when the old one is gone; frames wait in the new lane, and it decides them."""
    played = make(swap="stop", **guarded())
    old = played.post.lane
    held = played.bring()
    swap = played.swap(1, swap="stop", **guarded())
    waiting = played.bring()
    played.turn()
    assert (played.worker(played.post.lane).starts, old.worker.state) == (0, State.READY)
    played.answer(old)
    played.turn()
    assert (played.worker(played.post.lane).starts, old.worker.state) == (0, State.STOPPING)
    played.worker(old).process.killed = True
    played.turn()
    played.ready(played.post.lane)
    assert swap.state is GUARDED
    played.answer(played.post.lane)
    assert verdicts(played) == [(held, ErrorWord.NONE), (waiting, ErrorWord.NONE)]
    assert played.came[waiting] is played.left[-1][0] is played.post.lane


def test_stop_and_swap_refused(make):
    """Frames that waited for a worker that is not fit are answered so at once; then the old one is started again."""
    played = make(swap="stop", **guarded())
    old = played.post.lane
    swap = played.swap(1, swap="stop", **guarded())
    played.turn()
    played.worker(old).process.killed = True
    played.turn()
    waiting = played.bring()
    played.turn()
    failed = played.post.lane
    played.say(failed, {"op": "failed", "error": "TemplateError: golden frame 1"})
    assert verdicts(played) == [(waiting, ErrorWord.ACTIVATION_REFUSED)]
    assert swap.state is REFUSED
    assert played.post.lane.assignment is swap.before
    assert played.worker(played.post.lane).starts == 0
    late = played.bring()
    played.turn(101)
    assert verdicts(played)[-1] == (late, ErrorWord.ACTIVATION_REFUSED)
    played.ready(played.post.lane)
    number = played.bring()
    played.answer(played.post.lane)
    assert verdicts(played)[-1] == (number, ErrorWord.NONE)


def test_stop_and_swap_taken_back(make):
    """Without a warm lane the guard goes back by stopping: the bad worker is gone before the old one loads."""
    played = make(swap="stop", **guarded())
    old = played.post.lane
    swap = played.swap(1, swap="stop", **guarded())
    played.turn()
    played.worker(old).process.killed = True
    played.turn()
    played.ready(played.post.lane)
    bad = played.post.lane
    played.die(bad)
    assert (swap.state, played.post.lane.assignment) == (ROLLED_BACK, swap.before)
    played.turn()
    played.ready(played.post.lane)
    number = played.bring()
    played.answer(played.post.lane)
    assert verdicts(played) == [(number, ErrorWord.NONE)]


def test_a_post_that_is_closed(played):
    """A camera or recipe that is taken out answers what it holds, whoever holds it, and then has no lane any more."""
    held = played.bring()
    played.swap(1, **guarded())
    played.turn()
    lanes = [*played.post.lanes()]
    played.post.close("taken out", played.now_ns)
    played.turn()
    assert not played.post.is_gone
    played.answer(lanes[0])
    for lane in lanes:
        played.worker(lane).process.killed = True
    played.turn()
    assert (played.post.is_gone, verdicts(played)) == (True, [(held, ErrorWord.NONE)])
    assert set(played.post.ended) == set(lanes)


def test_what_lanes_counted_is_kept(played):
    """Restarts, late answers and self-tests of a lane that has ended stay in its camera's counts."""
    old = played.post.lane
    played.die(old)
    played.turn(1000)
    played.ready(old)
    played.swap(1, guard=None)
    played.ready(played.post.candidate)
    played.turn()
    played.worker(old).process.killed = True
    played.turn()
    assert played.tally.restarts == 1
    assert set(played.tally.past) == set(old.own_counts())
    states = [detail["to"] for event, detail in played.tally.news if event is Event.STATE]
    assert states == ["ready", "degraded", "ready", "ready"]
    assert [detail["why"] for event, detail in played.tally.news if event is Event.RESTART] == ["died (exit status -9)"]
