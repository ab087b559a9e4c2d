"""Swaps of a real station: a new worker takes over without a gap, and what is not fit never does."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from runtime.client.ask import ask
from runtime.client.subscriber import Subscriber
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.ledger import Reader, check
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import Fault, marked
from runtime.testing.station import PATIENCE_S, PRODUCT, HandCamera, LocalStation, local_station
from runtime.testing.swapping import (
    GUARD,
    PLUGINS,
    edit,
    hang_up,
    make_station,
    newest,
    part,
    with_golden,
    with_threshold,
)
from runtime.wire.event import EVENT_TOPIC_PREFIX, StationEvent, decode_event

pytestmark = pytest.mark.system


class Line:
    """A camera that sends one part after another, and what a subscriber gets of them."""

    def __init__(self, station: LocalStation, camera: HandCamera, subscriber: Any) -> None:
        self.station, self.camera, self.subscriber = station, camera, subscriber
        self.sent = 0

    def run_until(self, reached: Any, **fields: Any) -> list[Inspection]:
        """Send parts until ``reached(status)``; return their inspections."""
        before = self.sent
        while not reached(self.station.status()):
            self.camera.send(part(self.sent), **fields)
            self.camera.receipt()
            self.sent += 1
            assert self.sent < 5000
        return self.take(self.sent - before)

    def take(self, count: int) -> list[Inspection]:
        """Return the next inspections published."""
        return [self.subscriber.receive(60_000).inspection for _ in range(count)]


@pytest.fixture
def line(tmp_path) -> Iterator[Callable[..., tuple[Path, Line]]]:
    """Return a maker of running lines: ``line(**fields)`` takes the keys of the station file."""
    with ExitStack() as stack:

        def make(**fields: Any) -> tuple[Path, Line]:
            path = make_station(tmp_path, **fields)
            station = stack.enter_context(local_station(path, PLUGINS))
            camera = stack.enter_context(station.camera())
            return path, Line(station, camera, stack.enter_context(station.subscriber()))

        yield make


def state_is(*states: str) -> Any:
    """Return a condition: the swap begun last is in one of these states."""
    return lambda status: newest(status)["state"] in states


def applied(count: int) -> Any:
    """Return a condition: as many requests were made, and the last one is checked."""
    return lambda status: len(status["applies"]) == count and status["applies"][-1]["state"] != "preparing"


def events(line: Line, kind: str = "swap") -> list[dict[str, Any]]:
    """Return the details of the ledger's events of one kind, having proven the ledger."""
    ledger = line.station.station.ledger
    assert check(ledger.file, folder=ledger.evidence_folder) == []
    with Reader(ledger.file) as reader:
        return [each.detail for each in reader.events(kind=kind)]


@contextmanager
def heard(line: Line) -> Iterator[Callable[[], Iterator[StationEvent]]]:
    """Subscribe to the station's events; give how to read those that came since."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, EVENT_TOPIC_PREFIX)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(line.station.station.results)
        line.station.wait(lambda status: status["subscriptions"] >= 2)

        def read() -> Iterator[StationEvent]:
            while socket.poll(500):
                yield decode_event(socket.recv_multipart())

        yield read


def test_another_detector_takes_over_under_load(line):
    """Frames sent all the while are each decided once, by the old detector up to a frame, then by the new one."""
    path, line = line()
    old = line.station.status()["cameras"]["top"]
    with heard(line) as told:
        edit(path, detector="nothing")
        hang_up(line.station)
        results = line.run_until(state_is("kept", "rolled_back", "refused"))
        status = line.station.wait(lambda status: status["cameras"]["top"]["worker_pid"] != old["worker_pid"])
        swaps = [each.detail["step"] for each in told() if each.kind == "swap"]
    assert newest(status)["state"] == "kept", newest(status)
    new = status["cameras"]["top"]
    assert {each.error for each in results} == {ErrorWord.NONE}
    assert [each.seq for each in results] == [*range(1, line.sent + 1)]
    flip = next(index for index, each in enumerate(results) if each.detector == "nothing")
    assert flip > 0
    assert {(each.detector, each.template) for each in results[:flip]} == {("faulty", old["template"])}
    assert {(each.detector, each.template) for each in results[flip:]} == {("nothing", new["template"])}
    assert len(results) - flip >= GUARD["parts"]
    assert (new["frames"], new["inspections"]) == (line.sent, line.sent)
    assert [each["step"] for each in events(line)] == ["begin", "guarded", "kept"]
    assert swaps == ["begin", "guarded", "kept"], "published as well, for who watches live"


def test_what_fails_its_golden_frames_is_refused(line):
    """A template with damaged golden frames never inspects: the old one goes on, and the reason names the frames."""
    path, line = line()
    store = Store(path.parent / "store")
    good = store.active(PRODUCT, "faulty").digest
    bad = with_golden(store, part(1), part(2), wrong_by=0.25)
    hang_up(line.station)
    results = line.run_until(state_is("refused", "kept", "guarded"))
    swap = newest(line.station.status())
    assert (swap["state"], swap["to"]["template"]) == ("refused", bad)
    assert "golden frames 0, 1 of 2 failed" in swap["why"]
    assert {(each.error, each.template) for each in results} == {(ErrorWord.NONE, good)}
    line.station.wait(lambda _: store.active(PRODUCT, "faulty").digest == good)  # a restart must not come up with it
    assert [each["step"] for each in events(line)] == ["begin", "refused"]


def test_the_guard_takes_back_what_rejects_everything(line):
    """A template under which every part is NotOK is taken back by the guard, from the store too."""
    path, line = line()
    store = Store(path.parent / "store")
    good = store.active(PRODUCT, "faulty").digest
    line.run_until(lambda status: status["inspections"] >= 25)
    bad = with_threshold(store, 0.01)
    hang_up(line.station)
    results = line.run_until(state_is("rolled_back", "kept", "refused"))
    swap = newest(line.station.status())
    assert (swap["state"], swap["to"]["template"]) == ("rolled_back", bad)
    assert "NotOK" in swap["why"]
    rejected = [each for each in results if each.template == bad]
    assert {each.verdict for each in rejected} == {Verdict.NOT_OK}
    assert 4 <= len(rejected) <= 6  # the fourth is more than 30 % of ten
    line.station.wait(lambda _: store.active(PRODUCT, "faulty").digest == good)
    assert store.log(PRODUCT, "faulty")[-1][0].who == "guard"
    goal = line.sent + 5
    after = line.run_until(lambda _: line.sent == goal)
    assert [each.template for each in after] == [good] * 5
    assert [(each["step"], each.get("who")) for each in events(line)][-1] == ("rolled_back", "guard")


def test_a_worker_that_dies_under_guard_is_taken_back(line):
    """One death of the new worker while it is guarded, and the old one inspects the next part."""
    path, line = line()
    store = Store(path.parent / "store")
    good = store.active(PRODUCT, "faulty").digest
    with_threshold(store, 0.6)
    hang_up(line.station)
    line.run_until(state_is("guarded"))
    line.camera.send(marked(part(9999), Fault.KILL))
    assert line.camera.receipt().error is ErrorWord.DETECTOR_CRASH
    status = line.station.wait(state_is("rolled_back"))
    assert "died" in newest(status)["why"]
    line.take(1)
    line.camera.send(part(10_000))
    line.camera.receipt()
    assert [(each.error, each.template) for each in line.take(1)] == [(ErrorWord.NONE, good)]


@pytest.mark.parametrize("wrong_by", [0.0, 0.25], ids=["fit", "unfit"])
def test_stop_and_swap(line, wrong_by):
    """The workers are never there together; frames wait; where the new one is unfit, the old one is started again."""
    path, line = line(swap="stop")
    store = Store(path.parent / "store")
    good = store.active(PRODUCT, "faulty").digest
    other = with_golden(store, part(1), wrong_by=wrong_by)
    hang_up(line.station)
    line.station.wait(state_is("preparing"))
    results = line.run_until(state_is("kept", "refused"))
    swap = newest(line.station.status())
    assert swap["state"] == ("refused" if wrong_by else "kept"), swap
    line.station.wait(lambda status: status["ready"])
    line.camera.send(part(77_777))
    line.camera.receipt()
    results += line.take(1)
    words = [each.error for each in results if each.error is not ErrorWord.NONE]
    assert set(words) <= {ErrorWord.ACTIVATION_REFUSED}
    assert bool(words) is bool(wrong_by)
    assert (results[-1].error, results[-1].template) == (ErrorWord.NONE, good if wrong_by else other)


def test_recipes(tmp_path):
    """Frames go to the recipe they name, else to the one picked by command, which a killed host remembers."""
    path = make_station(tmp_path, recipes={"still": {"product": PRODUCT, "detector": "nothing"}})
    address = load_station(path).status
    sent = itertools.count()

    def detector(camera: HandCamera, subscriber: Subscriber, **fields: Any) -> tuple[str, str]:
        camera.send(part(next(sent)), **fields)
        camera.receipt()
        found = subscriber.receive(60_000).inspection
        return found.error.value, found.detector

    with (
        local_station(path, PLUGINS) as station,
        station.camera() as camera,
        Subscriber(station.station.results) as subscriber,
    ):
        station.wait(lambda status: status["subscriptions"] == 1)
        assert detector(camera, subscriber) == ("none", "faulty")
        assert detector(camera, subscriber, recipe="still") == ("none", "nothing")
        assert detector(camera, subscriber, recipe="moving")[0] == "bad_command"
        picked = ask(address, {"op": "recipe", "recipe": "still"})
        assert picked == {"ok": True, "recipe": "still", "cameras": ["top"]}
        assert detector(camera, subscriber) == ("none", "nothing")
        station.process.kill()
        station.process.wait(PATIENCE_S)
    with local_station(path, PLUGINS) as again, again.camera() as camera, again.subscriber() as subscriber:
        assert again.status()["cameras"]["top"]["recipe"] == "still"
        assert detector(camera, subscriber) == ("none", "nothing")
        refused = ask(address, {"op": "recipe", "recipe": "moving"})
        assert (refused["ok"], "still" in refused["error"]) == (False, True)
        ask(address, {"op": "recipe", "recipe": ""})
        assert detector(camera, subscriber) == ("none", "faulty")


def test_an_invalid_file_touches_nothing(line):
    """A file with a fault, or with a key that needs a restart, is refused with the key's name; the station goes on."""
    path, line = line()
    before = line.station.status()["cameras"]["top"]["worker_pid"]
    sound = path.read_text(encoding="utf-8")
    wrongs = [
        (f'"product": "{PRODUCT}"', '"product": 7', "product"),
        (f'"product": "{PRODUCT}"', '"product": "lid"', "lid"),
        ('"max_frame_bytes": 65536', '"max_frame_bytes": 65537', "max_frame_bytes"),
    ]
    for number, (right, wrong, key) in enumerate(wrongs, 1):
        path.write_text(sound.replace(right, wrong), encoding="utf-8")
        ask(line.station.station.status, {"op": "apply", "who": "test"})
        status = line.station.wait(applied(number))
        assert (status["applies"][-1]["state"], key in status["applies"][-1]["why"]) == ("refused", True)
    assert status["swaps"] == []
    assert status["cameras"]["top"]["worker_pid"] == before


def test_a_second_signal_does_not_cut_the_drain_short(tmp_path):
    """SIGTERM twice, the second while frames are still in hand: they are answered, and the exit status is 0."""
    with local_station(make_station(tmp_path), PLUGINS) as station, station.camera() as camera:
        camera.send(marked(part(1), Fault.SLEEP, 250))
        station.wait(lambda status: status["frames"] == 1)
        station.process.send_signal(signal.SIGTERM)
        station.wait(lambda status: status["state"] == "stopping")
        station.process.send_signal(signal.SIGTERM)
        assert camera.receipt().error is ErrorWord.NONE
        assert station.process.wait(PATIENCE_S) == 0
        assert "draining already" in station.log.read_text(encoding="utf-8")
