"""Lanes that share a worker: who shares with whom, and what one lane's trouble means to the others."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from runtime.frame import FrameHeader, PixelFormat
from runtime.inspection import ErrorWord
from runtime.lane.assignment import Assignment, assignments, lanes_of
from runtime.lane.backoff import FIRST_BACKOFF_S
from runtime.lane.lane import Answer, Lane
from runtime.lane.supervisor import STOP_S
from runtime.lane.tally import Tally
from runtime.lane.workers import Workers
from runtime.lifecycle import State
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.played_worker import PlayedSupervisor, PlayedWorker
from runtime.testing.station import PRODUCT, put_template, write_station
from runtime.worker.link import Link

S = 1_000_000_000
ONE = {"product": PRODUCT, "detector": "faulty", "worker": "shared", "deadline_ms": 60_000, "queue": 4}
PIXELS = memoryview(bytes(range(6)))


class Hall:
    """Lanes of cameras, by name, and the workers they may share."""

    def __init__(self, found: dict[str, Assignment]) -> None:
        self.found = found
        self.workers = Workers()
        self.lanes: list[Lane] = []
        self.number = 0

    def lane(self, name: str = "a", **camera: Any) -> Lane:
        """Return a new lane of a camera."""
        assignment = self.found[name]
        changed = replace(assignment, camera=assignment.camera.model_copy(update=camera))
        self.lanes.append(Lane(changed, workers=self.workers))
        return self.lanes[-1]

    def bring(self, lane: Lane, now_ns: int) -> int:
        """Bring a frame to a lane, and have it sent; return its number."""
        self.number += 1
        header = FrameHeader(lane.name, 1, self.number, 2, 3, PixelFormat.MONO8, 0)
        assert lane.take(header, PIXELS, self.number, now_ns, 0) is None
        lane.dispatch(now_ns)
        return self.number

    def ready(self, *lanes: Lane, now_ns: int = 0) -> None:
        """Have lanes join and hear that they are served."""
        for lane in lanes:
            lane.advance(now_ns)
            assert say(lane, {"op": "ready"}, now_ns) == []
            assert lane.worker.state is State.READY


def seat(lane: Lane) -> PlayedWorker:
    """Return a lane's seat."""
    return lane.worker


def say(lane: Lane, record: dict[str, Any], now_ns: int) -> list[Answer]:
    """Have the worker say something to a lane, and the host hear it."""
    seat(lane).end._socket.send(msgpack.packb(record))
    return list(lane.read_worker(now_ns))


def done(number: int) -> dict[str, Any]:
    """Return an answer the worker may give."""
    return {"op": "undecided", "ticket": number, "error": "detector_error", "detail": "", "detect_us": 1}


@pytest.fixture
def hall(tmp_path, monkeypatch) -> Iterator[Hall]:
    """Return cameras a, b, c that can share a worker, and others that cannot, or not with them."""
    monkeypatch.setattr("runtime.lane.workers.Supervisor", PlayedSupervisor)
    store = Store.create(tmp_path / "store")
    template = store.template(put_template(store, Faulty(), 0.5))
    cameras = dict.fromkeys("abc", ONE) | {
        "own": ONE | {"worker": "own"},
        "low": ONE | {"priority": "low"},
        "far": ONE | {"device": "cuda:1"},
        "dark": ONE | {"exposure": None, "repeat_limit": None, "queue": 2},
    }
    worker = {"threads": 1, "hang_s": 10, "start_timeout_s": 60, "restart_budget": 1}
    station = load_station(write_station(tmp_path, cameras, max_frame_bytes=64, worker=worker, ledger=None))
    found = assignments(station, {(name, recipe): template for name, recipe, _ in lanes_of(station)}, ())
    made = Hall({name: each for (name, _), each in found.items()})
    yield made
    for lane in made.lanes:
        lane.worker.stop(STOP_S)
        lane.release()
        if seat(lane).starts:
            seat(lane).end.close()


def test_who_shares(hall):
    """Cameras share that ask to and need the same engine; what is checked of their frames may differ."""
    first = hall.lane("a").worker.supervisor
    assert hall.lane("b").worker.supervisor is first
    assert hall.lane("dark").worker.supervisor is first
    others = [hall.lane(name).worker.supervisor for name in ("own", "own", "low", "far")]
    assert len({id(each) for each in (first, *others)}) == 5
    assert hall.lanes[0].status()["shared_with"] == ["b", "dark"]
    assert hall.lanes[3].status()["shared_with"] == []


def test_one_process_and_a_line_for_each(hall):
    """Three lanes start one process; each is ready when it hears so, one that comes later without anything loading."""
    lanes = [hall.lane(name) for name in "abc"]
    for lane in lanes[:2]:
        lane.advance(0)
    assert lanes[0].worker.supervisor.starts == 1
    assert [seat(lane).played()["template"] for lane in lanes[:2]] == [lanes[0].template.digest] * 2
    hall.ready(lanes[0])
    assert lanes[1].worker.state is State.STARTING
    hall.ready(lanes[1])
    lanes[2].advance(5 * S)
    assert say(lanes[2], {"op": "ready"}, 5 * S) == []
    assert [lane.worker.state for lane in lanes] == [State.READY] * 3
    assert {lane.worker.pid for lane in lanes} == {1}


def test_a_death_is_one_for_all(hall):
    """Each lane answers its own oldest frame and keeps the others; one restart, one pause, one of the budget."""
    lanes = [hall.lane(name) for name in "abc"]
    hall.ready(*lanes)
    numbers = [[hall.bring(lane, S) for _ in range(2)] for lane in lanes]
    for lane in lanes:
        seat(lane).end.close()
    for lane, (oldest, _) in zip(lanes, numbers, strict=True):
        (answer,) = lane.read_worker(2 * S)
        assert (answer.number, answer.error, answer.detail) == (oldest, ErrorWord.DETECTOR_CRASH, "the worker died")
    supervisor = lanes[0].worker.supervisor
    assert (supervisor.deaths, supervisor.state) == (1, State.DEGRADED)
    assert [(lane.worker.restarts, lane.worker.last_error) for lane in lanes] == [(1, "died (exit status -9)")] * 3
    again_ns = 2 * S + int(FIRST_BACKOFF_S * S)
    hall.ready(*lanes, now_ns=again_ns)
    assert supervisor.starts == 2
    for lane, (_, kept) in zip(lanes, numbers, strict=True):
        lane.advance(again_ns)
        assert [answer.number for answer in say(lane, done(kept), again_ns)] == [kept]


def test_a_death_is_counted_once_for_a_camera(hall):
    """Two lanes of one camera that share a worker heard of the same death; the one after the first has left counts."""
    tally = Tally()
    first, second = (Lane(hall.found["a"], tally, hall.workers) for _ in range(2))
    hall.lanes += [first, second]
    for now_ns, lanes in ((0, (first, second)), (50 * S, (second,))):
        hall.ready(*lanes, now_ns=now_ns)
        for lane in lanes:
            seat(lane).end.close()
        for lane in lanes:
            list(lane.read_worker(now_ns + S))
        if first in lanes:
            assert tally.restarts == 1
            first.worker.dismiss()
    assert (tally.restarts, first.worker.restarts, second.worker.restarts) == (2, 1, 2)


@pytest.mark.parametrize(
    ("at", "blamed"),
    [("", "ab"), ("a", "a"), ("b", "b"), ("ab", "ab")],
    ids=["idle", "the first", "the second", "both"],
)
def test_whose_frame_a_worker_died_over(hall, at, blamed):
    """A lane is not to blame where the worker was at frames of others alone; where it was at none, all may be."""
    lanes = [hall.lane(name) for name in "ab"]
    hall.ready(*lanes)
    for lane in lanes:
        lane._slots.begun = lane.name in at
        seat(lane).end.close()
    for lane in lanes:
        list(lane.read_worker(S))
    assert [lane.worker.restarts for lane in lanes] == [1, 1]
    assert "".join(lane.name for lane in lanes if lane.worker.own_deaths) == blamed
    assert not any(lane._slots.begun for lane in lanes), "the next process begins with nothing said"


@pytest.mark.parametrize("stuck", [False, True])
def test_a_hang_of_one_is_a_hang_of_all(hall, stuck):
    """The lane whose frame hangs gives the worker up; the others hear it at once, though it cannot even be killed."""
    lanes = [hall.lane(name) for name in "abc"]
    hall.ready(*lanes)
    hall.bring(lanes[0], S)
    last = hall.bring(lanes[2], 5 * S)
    lanes[0].worker.supervisor.process.stuck = stuck
    assert lanes[0].advance(11 * S) == []
    (answer,) = lanes[0].advance(11 * S + 1)
    assert "silent for 10 s over one frame" in answer.detail
    assert lanes[2].next_due_ns() < 11 * S, "at once"
    assert lanes[1].advance(11 * S + 1) == []
    (answer,) = lanes[2].advance(11 * S + 1)
    assert (answer.number, answer.error) == (last, ErrorWord.DETECTOR_CRASH)
    assert "silent for 10 s over one frame" in answer.detail
    assert {lane.worker.link for lane in lanes} == {None}
    hall.ready(*lanes, now_ns=12 * S)
    assert lanes[0].worker.supervisor.starts == 2


def test_what_was_said_before_the_end_counts(hall):
    """An answer on another lane's line, sent before the worker was given up, is taken and not answered again."""
    first, second = hall.lane("a"), hall.lane("b")
    hall.ready(first, second)
    hall.bring(first, S)
    number = hall.bring(second, S)
    seat(second).end._socket.send(msgpack.packb(done(number)))
    first.advance(12 * S)
    assert [(each.number, each.error) for each in second.advance(12 * S)] == [(number, ErrorWord.DETECTOR_ERROR)]


def test_waiting_for_the_frames_of_others_is_no_hang(hall):
    """While the worker answers other lanes it is not silent; but one lane may not wait for more than one of each."""
    first, second = hall.lane("a"), hall.lane("b")
    hall.ready(first, second)
    number = hall.bring(first, 0)
    hall.bring(second, 0)
    assert say(first, done(number), 9 * S)
    assert second.advance(18 * S) == []
    assert second.next_due_ns() == 19 * S
    number = hall.bring(first, 18 * S)
    assert say(first, done(number), 18 * S)
    assert second.next_due_ns() == 20 * S
    assert second.advance(20 * S) == []
    (answer,) = second.advance(20 * S + 1)
    assert "silent for 20 s" in answer.detail


def test_an_idle_lane_beside_a_busy_one(hall):
    """Only when no lane has a frame is the worker asked for a sign of life, by one of them; nobody wakes before."""
    first, second = hall.lane("a"), hall.lane("b")
    hall.ready(first, second)
    for lane in (first, second):
        lane.advance(0)
        assert seat(lane).played()["op"] == "setup"
    number = hall.bring(first, S // 2)
    second.advance(5 * S)
    assert second.next_due_ns() is None
    say(first, done(number), 5 * S)
    first.advance(5 * S)
    assert first.next_due_ns() == 6 * S
    second.advance(6 * S)
    first.advance(6 * S)
    assert seat(second).played() == {"op": "ping", "golden": False}
    assert seat(first).played()["op"] == "inspect"
    assert (first.worker.is_asked, second.worker.is_asked) == (False, True)
    assert (first.next_due_ns(), second.next_due_ns()) == (None, 16 * S)
    assert say(second, {"op": "alive", "golden": True}, 6 * S) == []
    assert [lane.worker.self_tests for lane in (first, second)] == [1, 1]


def test_a_sign_of_life_of_a_lane_that_leaves(hall):
    """What the worker owed a lane that has left it owes nobody: the next one is asked for through another lane."""
    first, second = hall.lane("a"), hall.lane("b")
    hall.ready(first, second)
    first.advance(2 * S)
    assert first.worker.is_asked
    first.worker.dismiss()
    assert second.advance(13 * S) == []
    assert second.worker.is_asked


def test_a_sign_of_life_costs_its_lane_no_frame(hall):
    """A lane's frame behind a sign of life the worker died over was not begun, even if another lane hears it first."""
    first, second = hall.lane("a"), hall.lane("b")
    hall.ready(first, second)
    first.advance(2 * S)
    number = hall.bring(first, 2 * S)
    for lane in (first, second):
        seat(lane).end.close()
    assert [*second.read_worker(3 * S), *first.read_worker(3 * S)] == []
    hall.ready(first, now_ns=4 * S)
    first.advance(4 * S)
    assert [answer.number for answer in say(first, done(number), 4 * S)] == [number]


def test_the_last_one_turns_off_the_light(hall):
    """The process ends with its last lane, not before, and nobody sits down any more: the next one gets its own."""
    lanes = [hall.lane(name) for name in "ab"]
    hall.ready(*lanes)
    process = seat(lanes[0]).process
    for lane in lanes:
        assert seat(lane).played()["op"] == "setup"
    lanes[0].worker.dismiss()
    assert (lanes[0].worker.pid, lanes[0].ended(S)) == (None, True)
    assert (lanes[1].worker.pid, lanes[1].worker.state) == (1, State.READY)
    assert seat(lanes[0]).played() == {"op": "stop"}
    again = hall.lane("c")
    assert again.worker.supervisor is lanes[1].worker.supervisor
    again.worker.dismiss()
    lanes[1].worker.dismiss()
    assert not lanes[1].ended(S)
    process.killed = True  # stands for: it has ended
    assert lanes[1].ended(S)
    assert hall.lane("a").worker.supervisor is not lanes[1].worker.supervisor


def test_who_leaves_while_it_loads(hall):
    """A process that loads is killed with its last lane; one lane less does not concern it."""
    first, second = hall.lane("a"), hall.lane("b")
    for lane in (first, second):
        lane.advance(0)
    first.worker.dismiss()
    assert not seat(second).process.killed
    second.worker.dismiss()
    assert seat(second).process.killed


def test_courtesy_ends_with_a_lane_that_inspects(hall, monkeypatch):
    """A process loads out of the others' way only as long as all its lanes do."""
    calls: list[str] = []
    monkeypatch.setattr("runtime.lane.supervisor.hold_back", lambda pid: calls.append(f"hold {pid}"))
    monkeypatch.setattr("runtime.lane.supervisor.let_go", lambda pid: calls.append(f"let go {pid}"))
    candidate = hall.lane("a")
    candidate.worker.courteous = True
    candidate.advance(0)
    assert calls == ["hold 1"]
    hall.lane("b").advance(S)
    assert calls == ["hold 1", "let go 1"]
    seat(candidate).end.close()
    list(candidate.read_worker(2 * S))
    candidate.advance(3 * S)
    assert seat(candidate).process.pid == 2
    assert calls == ["hold 1", "let go 1"], "one lane of it inspects"


def test_a_lane_that_is_held(hall):
    """A lane that waits for memory joins nobody, and what happens to the worker meanwhile is not its own death."""
    running, held = hall.lane("a"), hall.lane("b")
    held.worker.held = True
    hall.ready(running)
    seat(running).end.close()
    list(running.read_worker(S))
    assert held.advance(S) == []
    assert (held.worker.restarts, held.worker.link, held.next_due_ns()) == (0, None, None)
    held.worker.held = False
    hall.ready(held, now_ns=2 * S)
    assert held.worker.restarts == 0


def test_a_worker_that_takes_no_line(hall, monkeypatch):
    """A process that is gone when a lane is handed over is buried; the lane comes back with the next one."""
    lane = hall.lane("a")

    def refuse(*_: Any) -> None:
        raise EOFError("broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(PlayedWorker, "_hand_over", refuse)
        assert lane.advance(0) == []
    assert (lane.worker.state, lane.worker.restarts, lane.worker.link) == (State.DEGRADED, 1, None)
    assert "could not be told of a" in lane.worker.last_error
    hall.ready(lane, now_ns=S)


def test_no_descriptor_left_for_a_line(hall, monkeypatch):
    """A host that may open no more does not end over it: the worker is given up, and started again when it is due."""
    lane = hall.lane("a")

    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Link, "pair", refuse)
        assert lane.advance(0) == []
    assert (lane.worker.state, lane.worker.restarts, lane.worker.link) == (State.DEGRADED, 1, None)
    assert "Too many open files" in lane.worker.last_error
    hall.ready(lane, now_ns=S)


def test_a_sign_of_life_given_before_the_end_counts(hall):
    """A frame behind a sign of life that was given may have killed the worker: it is answered, and not tried again.

    What was said behind that sign counts too, though another lane has buried the process before this one reads.
    """
    first, second = hall.lane("a"), hall.lane("b")
    hall.ready(first, second)
    first.advance(2 * S)
    numbers = [hall.bring(first, 2 * S) for _ in range(2)]
    for record in ({"op": "alive", "golden": False}, done(numbers[0])):
        seat(first).end._socket.send(msgpack.packb(record))
    for lane in (first, second):
        seat(lane).end.close()
    answers = [*second.read_worker(3 * S), *first.read_worker(3 * S)]
    assert [(answer.number, answer.error) for answer in answers] == [
        (numbers[0], ErrorWord.DETECTOR_ERROR),
        (numbers[1], ErrorWord.DETECTOR_CRASH),
    ]
    assert first.worker.restarts == 1
