"""Three lanes on one worker, in any order of frames, answers, deaths and time: every frame leaves once, in order."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import msgpack
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime.frame import FrameHeader, PixelFormat
from runtime.inspection import ErrorWord
from runtime.lane.assignment import Assignment
from runtime.lane.lane import Answer, Lane
from runtime.lane.supervisor import STOP_S
from runtime.lane.workers import Workers
from runtime.lifecycle import State
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import MAP_SIDE, Faulty
from runtime.testing.played_worker import PlayedSupervisor, PlayedWorker
from runtime.testing.station import PRODUCT, put_template, write_station

MS = 1_000_000
DEADLINE_MS = 100
MAP_BYTES = MAP_SIDE * MAP_SIDE * 2
PIXELS = memoryview(bytes(range(6)))
PICK = st.integers(0, 5)


class AnyOrder(RuleBasedStateMachine):
    """Lanes that come and go, the one worker they share, and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._patch = mock.patch("runtime.lane.workers.Supervisor", PlayedSupervisor)
        self._patch.start()
        self.lanes: list[Lane] = []
        self.gone: list[Lane] = []
        self.now_ns, self.number = 0, 0
        self.came: dict[int, Lane] = {}
        self.left: list[tuple[Lane, Answer]] = []

    @initialize()
    def begin(self) -> None:
        """Start with three lanes that have started nothing."""
        folder = Path(self._folder.name)
        store = Store.create(folder / "store")
        template = store.template(put_template(store, Faulty(), 0.5))
        camera = {"product": PRODUCT, "detector": "faulty", "deadline_ms": DEADLINE_MS, "queue": 2, "worker": "shared"}
        worker = {"threads": 1, "restart_budget": 4, "hang_s": 1}
        path = write_station(folder, {"top": camera}, max_frame_bytes=64, ledger=None, worker=worker)
        station = load_station(path)
        self.assignment = Assignment("top", "", station.cameras["top"], station, template, ())
        self.workers = Workers()
        for _ in range(3):
            self.arrival()

    @property
    def supervisor(self) -> PlayedSupervisor:
        """Return what all lanes share."""
        (found,) = {lane.worker.supervisor for lane in self.lanes}
        return found

    def seat(self, lane: Lane) -> PlayedWorker:
        """Return a lane's seat."""
        return lane.worker

    def note(self, lane: Lane, answers: list[Answer]) -> None:
        """Keep what left."""
        self.left += [(lane, answer) for answer in answers]

    def turn(self, ms: int = 0) -> None:
        """Take a turn of the host's loop, later by ``ms``."""
        self.now_ns += ms * MS
        for lane in self.lanes:
            if lane.worker.link is not None:
                self.note(lane, list(lane.read_worker(self.now_ns)))
        for lane in self.lanes:
            self.note(lane, lane.advance(self.now_ns))

    def say(self, lane: Lane, record: dict) -> None:
        """Have the worker say something to a lane, which hears it at its next turn."""
        self.seat(lane).end._socket.send(msgpack.packb(record))

    @rule()
    def arrival(self) -> None:
        """Have one lane more sit down, whatever the worker is doing."""
        if len(self.lanes) < 5:
            self.lanes.append(Lane(self.assignment, workers=self.workers))

    @rule(pick=PICK)
    def departure(self, pick: int) -> None:
        """Have a lane give its seat up; never the last one."""
        if len(self.lanes) > 1:
            lane = self.lanes.pop(pick % len(self.lanes))
            self.note(lane, lane.stop(self.now_ns))
            self.gone.append(lane)

    @rule(pick=PICK, count=st.integers(1, 3))
    def frames(self, pick: int, count: int) -> None:
        """Bring frames to a lane."""
        lane = self.lanes[pick % len(self.lanes)]
        for _ in range(count):
            self.number += 1
            self.came[self.number] = lane
            header = FrameHeader("top", 1, self.number, 2, 3, PixelFormat.MONO8, 0)
            at_once = lane.take(header, PIXELS, self.number, self.now_ns, 0)
            self.note(lane, [] if at_once is None else [at_once])
        lane.dispatch(self.now_ns)

    @rule(ms=st.sampled_from([0, 1, 60, 101, 1001, 3100, 31_000]))
    def time(self, ms: int) -> None:
        """Let time pass: deadlines, signs of life, hangs, restarts."""
        self.turn(ms)

    @rule(answers=st.lists(PICK, max_size=6))
    def loaded(self, answers: list[int]) -> None:
        """Have the worker tell some lanes that it serves them."""
        for pick in answers:
            lane = self.lanes[pick % len(self.lanes)]
            if lane.worker.link is not None and lane.worker.state is not State.READY:
                self.say(lane, {"op": "ready"})
                self.turn()

    @rule(pick=PICK, at_once=st.booleans())
    def answer(self, pick: int, at_once: bool) -> None:
        """Have the worker answer the oldest frame of a lane; the host reads it now or in a later turn."""
        lane = self.lanes[pick % len(self.lanes)]
        if (
            lane.worker.state is State.READY
            and lane.worker.link is not None
            and lane.pipeline.busy_since_ns is not None
        ):
            for record in self.unread(lane):
                if record["op"] == "ping":
                    self.say(lane, {"op": "alive", "golden": False})
                elif record["op"] == "inspect":
                    info = {"encoding": "raw", "dtype": "float16", "height": MAP_SIDE, "width": MAP_SIDE}
                    done = {"op": "done", "ticket": record["ticket"], "score": 0.25, "detect_us": 5, "map": info}
                    self.say(lane, done | {"map_bytes": MAP_BYTES, "preview_bytes": 0})
            if at_once:
                self.turn()

    def unread(self, lane: Lane) -> list[dict]:
        """Return what the host has sent to a lane's end."""
        records, end = [], self.seat(lane).end._socket
        end.setblocking(False)
        try:
            while True:
                records.append(msgpack.unpackb(end.recv(65536)))
        except BlockingIOError:
            return records

    @rule(order=st.permutations(range(5)))
    def death(self, order: list[int]) -> None:
        """Have the process die: the host hears it on one line after another, perhaps with turns between."""
        if self.supervisor.pid is None:
            return
        lanes = [self.lanes[index] for index in order if index < len(self.lanes)]
        for lane in lanes:
            if lane.worker.link is not None:
                self.seat(lane).end.close()
        for lane in lanes[: order[0]]:
            if lane.worker.link is not None:
                self.note(lane, list(lane.read_worker(self.now_ns)))
        self.turn()

    @rule()
    def stuck(self) -> None:
        """Have the process be one that not even SIGKILL ends."""
        if self.supervisor.pid is not None:
            self.supervisor.process.stuck = True

    @rule(junk=st.sampled_from([b"\xc1", msgpack.packb({"op": "done", "ticket": 0}), msgpack.packb([1])]), pick=PICK)
    def out_of_step(self, junk: bytes, pick: int) -> None:
        """Have the worker send one lane what it cannot have meant: all hear of its end."""
        lane = self.lanes[pick % len(self.lanes)]
        if lane.worker.link is not None:
            self.seat(lane).end._socket.send(junk)
            self.turn()

    @invariant()
    def each_frame_leaves_once_from_its_own_lane_in_order(self) -> None:
        """Check that nothing left twice or by another lane, and what was decided in the order it came."""
        assert max(Counter(answer.number for _, answer in self.left).values(), default=1) == 1
        assert all(self.came[answer.number] is lane for lane, answer in self.left)
        for lane in (*self.lanes, *self.gone):
            decided = [each.number for other, each in self.left if other is lane and each.error is ErrorWord.NONE]
            assert decided == sorted(decided)

    @invariant()
    def deaths_are_counted_once(self) -> None:
        """Check that a process is buried once, whoever hears of it, and that there is one at a time."""
        if self.lanes:
            assert max(lane.worker.restarts for lane in self.lanes) <= self.supervisor.deaths
            assert self.supervisor.deaths <= self.supervisor.starts <= self.supervisor.deaths + 1

    def teardown(self) -> None:
        """Let every deadline pass: then everything that came has left."""
        try:
            for _ in range(2):
                self.turn(DEADLINE_MS + 1)
            assert {answer.number for _, answer in self.left} == set(self.came)
        finally:
            for lane in self.lanes:
                lane.worker.supervisor.process.stuck = False
                lane.worker.stop(STOP_S)
                lane.release()
            for lane in (*self.lanes, *self.gone):
                if self.seat(lane).starts:
                    self.seat(lane).end.close()
            self._patch.stop()
            self._folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
