"""Several lanes on one engine: each lane's frames in order, nobody passed over, and no more at once than it takes."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.detector import DetectorResult
from runtime.inspection import ErrorWord
from runtime.worker.door import ENGINE_KEYS, Door
from runtime.worker.link import Link
from runtime.worker.rounds import Rounds
from runtime.worker.slots import Slots

SIDE = 8
SETUP = dict.fromkeys(ENGINE_KEYS) | {"map": "raw", "preview": False, "exposure": None, "repeat_limit": None}
SLOTS, ROOM = 64, 4096


class PlayedEngine:
    """Answers a picture with its own first value, and has something happen before it does."""

    def __init__(self, batch: int, happen: Callable[[list[int]], None]) -> None:
        self.batch = batch
        self.detector = SimpleNamespace(name="played")
        self.happen = happen

    def infer_many(self, images: Sequence[np.ndarray]) -> list[DetectorResult | Exception]:
        """Return a map and a score that are the picture's own; ``ValueError`` for a picture of 255."""
        marks = [int(image[0, 0]) for image in images]
        self.happen([int(image[0, 1]) for image in images])
        return [ValueError("asked for it") if mark == 255 else self._result(mark) for mark in marks]

    def _result(self, mark: int) -> DetectorResult:
        return DetectorResult(np.arange(4, dtype=np.float32).reshape(2, 2) + mark, float(mark))


class Guest:
    """A lane's host side: its line and slots, what it sent and what it was told."""

    def __init__(self, number: int, door: Door, **setup: Any) -> None:
        self.number = number
        self.link, theirs = Link.pair()
        self.slots = Slots.create(SLOTS, SIDE * SIDE, ROOM)
        self.link.send(SETUP | {"slots": SLOTS, "frame_bytes": SIDE * SIDE, "answer_bytes": ROOM} | setup)
        with theirs:
            door.hand_over(theirs, self.slots.fd)
        self.sent: list[int] = []
        self.answered = 0
        self.is_open = True
        self.pings = 0

    def frame(self, ticket: int, mark: int | None = None) -> None:
        """Ask for a picture of its own; ``mark``: its first value."""
        slot = ticket % SLOTS
        image = np.random.default_rng(ticket).integers(0, 250, (SIDE, SIDE), np.uint8)
        image[0, :2] = ticket % 250 if mark is None else mark, self.number
        self.slots.frame(slot, SIDE * SIDE)[:] = image.tobytes()
        record = {"op": "inspect", "ticket": ticket, "slot": slot, "shape": [SIDE, SIDE, 1], "format": "mono8"}
        self.link.send(record | {"frame": [1, ticket], "live": True})
        self.sent.append(ticket)

    def close(self, *, politely: bool) -> None:
        """Leave."""
        if politely:
            self.link.send({"op": "stop"})
        self.is_open = False

    def waits(self) -> bool:
        """Wait for the worker to say something, or to hang up."""
        return bool(select.select([self.link.fileno()], [], [], 30)[0])

    def told(self) -> list[dict[str, Any]]:
        """Return what the worker said, and close everything."""
        records = []
        with contextlib.suppress(EOFError):
            while (record := self.link.receive()) is not None:
                records.append(record)
        self.link.close()
        self.slots.close()
        return records


def serve(engine: Any, door: Door, outside: Any, *, last: bool = True, **options: Any) -> None:
    """Serve whoever has come, until all have gone; ``last``: nobody comes any more, else the test closes the door."""
    rounds = Rounds(engine, None, Door(outside), {"op": "ready"}, **options)
    rounds.admit_waiting()
    if last:
        door.close()
    rounds.serve()
    door.close()
    outside.close()


def open_now() -> set[str]:
    """Return the descriptors this process has open."""
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


EVENTS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["frame"] * 6 + ["ping", "stop", "join"])), max_size=60)


class Script:
    """What happens to a worker, step by step, and which lanes its rounds answered."""

    def __init__(self, events: list[tuple[int, str]], door: Door) -> None:
        self.events = deque(events)
        self.door = door
        self.guests = [Guest(number, door) for number in range(3)]
        self.rounds: list[list[int]] = []
        #: By lane, the round after which its oldest unanswered frame was its next one.
        self.since: dict[int, int] = {}
        self._tickets = iter(range(1, 10_000))

    def step(self) -> bool:
        """Have one thing happen; True if it is a frame."""
        pick, kind = self.events.popleft()
        guest = self.guests[pick % len(self.guests)]
        if kind == "join" and len(self.guests) < 6:
            self.guests.append(Guest(len(self.guests), self.door))
        if not guest.is_open:
            return False
        if kind == "frame" and len(guest.sent) < SLOTS:
            guest.frame(next(self._tickets))
            self.since.setdefault(guest.number, len(self.rounds) - 1)
            return True
        if kind == "ping":
            guest.link.send({"op": "ping", "golden": False})
            guest.pings += 1
        if kind == "stop":
            guest.close(politely=True)
        return False

    def go_on(self) -> None:
        """Have things happen until there is a frame to answer; at the end everybody leaves."""
        while self.events:
            if self.step():
                return
        for guest in self.guests:
            if guest.is_open:
                guest.close(politely=True)
        self.door.close()

    def answered(self, numbers: list[int]) -> None:
        """Note a round, and check that none of its lanes was passed over."""
        for number in numbers:
            passed = [other for round_ in self.rounds[self.since.pop(number) + 1 :] for other in round_]
            assert len(passed) == len(set(passed)), "nobody is served twice while another one waits"
            guest = self.guests[number]
            guest.answered += 1
            if guest.answered < len(guest.sent):
                self.since[number] = len(self.rounds)
        self.rounds.append(numbers)
        self.go_on()


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, batch=st.integers(1, 4), at_first=st.integers(0, 12))
def test_any_order_of_lanes(events, batch, at_first):
    """Frames, pings, arrivals and departures in any order: each lane is answered in order and nobody passed over."""
    door, outside = Door.pair()
    script = Script(events, door)
    for _ in range(min(at_first, len(events))):
        script.step()
    script.go_on()
    serve(PlayedEngine(batch, script.answered), door, outside, last=False)
    assert all(len(round_) == len(set(round_)) <= batch for round_ in script.rounds)
    for guest in script.guests:
        records = guest.told()
        if records:
            assert records.pop(0) == {"op": "ready"}
        done = [record for record in records if record["op"] == "done"]
        assert [record["ticket"] for record in done] == guest.sent
        assert [record["score"] for record in done] == [ticket % 250 for ticket in guest.sent]
        assert [record["op"] for record in records].count("alive") == guest.pings


def test_one_bad_frame_costs_no_neighbour():
    """Of the frames answered together, the one whose detector raised is undecided, the others have their scores."""
    door, outside = Door.pair()
    guests = [Guest(number, door) for number in range(3)]
    for ticket, guest in enumerate(guests, 1):
        guest.frame(ticket, mark=255 if ticket == 2 else ticket)
        guest.close(politely=True)
    rounds: list[list[int]] = []
    serve(PlayedEngine(3, rounds.append), door, outside)
    found = [guest.told()[1] for guest in guests]
    assert rounds == [[0, 1, 2]]
    assert [each.get("score") for each in found] == [1.0, None, 3.0]
    assert found[1]["error"] == ErrorWord.DETECTOR_ERROR


def test_the_map_of_another_camera_is_no_answer():
    """An engine that repeats the map it gave another lane, for another picture, is as dead as any that repeats one."""
    door, outside = Door.pair()
    guests = [Guest(number, door) for number in range(2)]
    for ticket, guest in enumerate(guests, 1):
        guest.frame(ticket, mark=7)
        guest.close(politely=True)
    serve(PlayedEngine(1, lambda _: None), door, outside)
    first, second = (guest.told()[1] for guest in guests)
    assert first["op"] == "done"
    assert second["error"] == ErrorWord.RESULT_BAD
    assert "bit for bit" in second["detail"]


def test_how_long_a_frame_waits_for_others():
    """With ``wait_ms`` a lone frame waits so long and goes alone; without, or with nobody to wait for, it does not."""
    for wait_ms, lanes, least_ms, most_ms in ((0.0, 2, 0, 60), (80.0, 1, 0, 60), (80.0, 2, 75, 10_000)):
        door, outside = Door.pair()
        guests = [Guest(number, door) for number in range(lanes)]
        times: list[float] = []

        def stop_all(_: list[int], guests: list[Guest] = guests, times: list[float] = times) -> None:
            times.append(time.monotonic())
            for guest in guests:
                guest.close(politely=True)

        guests[0].frame(1)
        started = time.monotonic()
        serve(PlayedEngine(2, stop_all), door, outside, wait_ms=wait_ms)
        took_ms = (times[0] - started) * 1000
        assert least_ms <= took_ms
        assert took_ms < most_ms or wait_ms, "a frame that need not wait does not"
        for guest in guests:
            guest.told()


def test_a_frame_that_comes_while_another_waits_goes_with_it():
    """Two lanes' frames go to the engine together when the second comes within the time, and before it is over."""
    door, outside = Door.pair()
    guests = [Guest(number, door) for number in range(2)]
    rounds: list[list[int]] = []

    def answered(numbers: list[int]) -> None:
        rounds.append(numbers)
        for guest in guests:
            guest.close(politely=True)

    guests[0].frame(1)
    guests[1].frame(2)
    started = time.monotonic()
    serve(PlayedEngine(2, answered), door, outside, wait_ms=60_000)
    assert rounds == [[0, 1]]
    assert time.monotonic() - started < 30
    for guest in guests:
        guest.told()


def test_a_lane_for_another_engine_is_told_so():
    """A lane whose template is not the one loaded is refused in words, and the others are served."""
    door, outside = Door.pair()
    right, wrong = Guest(0, door), Guest(1, door, template="another")
    right.frame(1)
    right.close(politely=True)
    serve(PlayedEngine(1, lambda _: None), door, outside)
    assert [record["op"] for record in right.told()] == ["ready", "done"]
    (refusal,) = wrong.told()
    assert refusal["op"] == "failed"
    assert "another" in refusal["error"]


def test_a_host_that_vanishes_ends_the_worker():
    """When every line and the door are closed without a word, serving ends."""
    door, outside = Door.pair()
    guests = [Guest(number, door) for number in range(2)]
    guests[0].frame(1)
    for guest in guests:
        guest.link.close()
    serve(PlayedEngine(1, lambda _: None), door, outside)
    for guest in guests:
        guest.slots.close()


def test_a_worker_waits_between_two_lanes():
    """A lane that comes after the last one has gone, as where a swap stops it first, is served by the same worker.

    One that was given up before it was served leaves nothing open; the worker ends when the door is closed.
    """
    before = open_now()
    door, outside = Door.pair()
    old = Guest(0, door)
    serving = threading.Thread(
        target=serve, args=(PlayedEngine(2, lambda _: None), door, outside), kwargs={"last": False}
    )
    serving.start()
    assert old.waits()
    assert old.link.receive() == {"op": "ready"}
    old.close(politely=True)
    assert old.waits()
    with pytest.raises(EOFError):
        old.link.receive()
    for _ in range(2):
        Guest(1, door).told()
    fresh = Guest(2, door)
    assert fresh.waits()
    assert fresh.link.receive() == {"op": "ready"}
    for guest in (old, fresh):
        guest.told()
    door.close()
    serving.join(30)
    assert not serving.is_alive()
    assert open_now() == before


def test_the_host_hears_that_batches_are_off():
    """An engine that gives up batches on the line is told to every lane, and to one that comes later, once."""
    door, outside = Door.pair()
    guests = [Guest(number, door) for number in range(2)]

    def happen(numbers: list[int]) -> None:
        if not events:
            engine.batch = 1
            guests.append(Guest(2, door))
        elif len(events) == 2:
            for guest in guests:
                guest.close(politely=True)
            door.close()
        events.append(numbers)

    events: list[list[int]] = []
    engine = PlayedEngine(2, happen)
    for ticket, guest in ((1, guests[0]), (2, guests[1]), (3, guests[0]), (4, guests[1])):
        guest.frame(ticket)
    ready = {"op": "ready", "engine": {"backend": "eager", "precision": "fp32", "note": "first"}}
    rounds = Rounds(engine, None, Door(outside), ready)
    rounds.admit_waiting()
    rounds.serve()
    outside.close()
    assert events == [[0, 1], [0], [1]]
    told = [guest.told() for guest in guests]
    for records in told[:2]:
        assert records[0]["engine"]["note"] == "first"
        (note,) = [record["engine"]["note"] for record in records if record["op"] == "engine"]
        assert note.startswith("first; frames go one by one")
    assert told[2][0] == {"op": "ready", "engine": {"backend": "eager", "precision": "fp32", "note": note}}


def test_the_host_can_tell_whose_frame_it_was():
    """While lanes share a process, those whose frames are inspected are marked in their own memory, and no others."""
    door, outside = Door.pair()
    guests = [Guest(number, door) for number in range(3)]
    marked: list[list[bool]] = []
    engine = PlayedEngine(2, lambda _: marked.append([guest.slots.begun for guest in guests]))
    for ticket, number in enumerate((0, 1, 2), 1):
        guests[number].frame(ticket)
        guests[number].close(politely=True)
    serve(engine, door, outside)
    assert marked == [[True, True, False], [False, False, True]]
    assert [guest.slots.begun for guest in guests] == [False] * 3
    for guest in guests:
        guest.told()
