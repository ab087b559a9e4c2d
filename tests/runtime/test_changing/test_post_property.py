"""Frames, swaps, deaths, refusals and rollbacks in any order: every frame is answered once, by the lane it came to."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime.changing.swap import Swap
from runtime.lane.assignment import Assignment
from runtime.lane.lane import Lane
from runtime.lifecycle import State
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.played_post import PlayedPost, guarded, one_camera
from runtime.testing.played_worker import PlayedSupervisor
from runtime.testing.station import PRODUCT, put_template, write_station

DEADLINE_MS = 100


class AnyOrder(RuleBasedStateMachine):
    """A post, its workers and its clock, driven in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._patch = mock.patch("runtime.lane.workers.Supervisor", PlayedSupervisor)
        self._patch.start()
        self.swaps: list[Swap] = []

    @initialize(guard=st.booleans())
    def begin(self, guard: bool) -> None:
        """Start with one lane that has started nothing."""
        folder = Path(self._folder.name)
        store = Store.create(folder / "store")
        templates = [store.template(put_template(store, Faulty(), 0.5 + number / 10)) for number in range(3)]
        camera = {"product": PRODUCT, "detector": "faulty", "deadline_ms": DEADLINE_MS, "queue": 2}
        station = load_station(write_station(folder, {"top": camera}, max_frame_bytes=64, ledger=None))

        def assign(template: int, **keys: Any) -> Assignment:
            changed = one_camera(station, **keys)
            return Assignment("top", "", changed.cameras["top"], changed, templates[template], ())

        self.keys = guarded(3) if guard else {"guard": None}
        self.played = PlayedPost(assign, **self.keys)

    def lane(self, pick: int) -> Lane:
        """Return one of the lanes that live."""
        lanes = [*self.played.post.lanes()]
        return lanes[pick % len(lanes)]

    @rule(count=st.integers(1, 3))
    def frames(self, count: int) -> None:
        """Bring frames."""
        for _ in range(count):
            self.played.bring()

    @rule(ms=st.sampled_from([0, 1, 60, 101, 1000, 31_000, 121_000]))
    def time(self, ms: int) -> None:
        """Let time pass."""
        self.played.turn(ms)

    @rule(pick=st.integers(0, 5), score=st.sampled_from([0.1, 0.95]))
    def answer(self, pick: int, score: float) -> None:
        """Have a worker answer the oldest frame it holds."""
        self.played.answer(self.lane(pick), score)

    @rule(pick=st.integers(0, 5), fit=st.booleans())
    def loaded(self, pick: int, fit: bool) -> None:
        """Have a worker that loads be ready, or not fit."""
        lane = self.lane(pick)
        if lane.worker.pid is not None and lane.worker.state not in (State.READY, State.STOPPING):
            self.played.say(lane, {"op": "ready"} if fit else {"op": "failed", "error": "golden frame 0"})

    @rule(pick=st.integers(0, 5))
    def death(self, pick: int) -> None:
        """Have a worker die."""
        lane = self.lane(pick)
        if lane.worker.pid is not None and lane.worker.state is not State.STOPPING:
            self.played.die(lane)

    @rule()
    def ends(self) -> None:
        """Have every process end that was asked to."""
        for lane in self.played.post.lanes():
            if lane.worker.state is State.STOPPING and lane.worker.pid is not None:
                self.played.worker(lane).process.killed = True
        self.played.turn()

    @rule(template=st.integers(0, 2), mode=st.sampled_from(["beside", "stop"]))
    def swap(self, template: int, mode: str) -> None:
        """Ask for another template."""
        self.swaps.append(self.played.swap(template, swap=mode, **self.keys))

    @rule(back=st.booleans())
    def regret(self, back: bool) -> None:
        """Take a swap back, or give up preparing one."""
        if back:
            self.played.post.take_back("asked to")
        else:
            for lane, answer in self.played.post.cancel("asked to", self.played.now_ns):
                self.played.left.append((lane, answer))

    @invariant()
    def each_leaves_once_by_its_own_lane(self) -> None:
        """Nothing left twice, and nothing left another lane than it came to."""
        if hasattr(self, "played"):
            assert max(Counter(answer.number for _, answer in self.played.left).values(), default=1) == 1
            assert all(self.played.came[answer.number] is lane for lane, answer in self.played.left)

    @invariant()
    def at_most_one_swap_is_prepared_and_one_guarded(self) -> None:
        """Every swap that is not over is the one its post works on; a lane is in one place."""
        if hasattr(self, "played"):
            post = self.played.post
            assert {id(swap) for swap in self.swaps if swap.is_open} == {
                id(swap) for swap in (post.preparing, post.guarded) if swap is not None
            }
            lanes = [*post.lanes()]
            assert len({id(lane) for lane in lanes}) == len(lanes)
            assert (post.warm is None) or (post.guarded is not None)

    def teardown(self) -> None:
        """Let every deadline pass: then everything that came has left, and every lane can end."""
        try:
            if hasattr(self, "played"):
                for lane, answer in self.played.post.close("the end", self.played.now_ns):
                    self.played.left.append((lane, answer))
                for _ in range(4):
                    self.played.turn(DEADLINE_MS + 1)
                    self.ends()
                assert {answer.number for _, answer in self.played.left} == set(self.played.came)
                assert self.played.post.is_gone
                assert self.played.tally.counts["frames"] == self.played.tally.counts["inspections"]
        finally:
            if hasattr(self, "played"):
                self.played.close()
            self._patch.stop()
            self._folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
