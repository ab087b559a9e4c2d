"""A host whose workers the test plays is asked to change: what it does, refuses, answers and writes down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.changing import chosen
from runtime.changing.changeover import MOST_PLANS
from runtime.client.ask import ask
from runtime.client.subscriber import ask_status
from runtime.errors import ConfigError
from runtime.host.loop import Host
from runtime.inspection import ErrorWord
from runtime.lane.supervisor import STOP_S
from runtime.ledger import Reader
from runtime.lifecycle import State
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.played_worker import PlayedSupervisor, PlayedWorker
from runtime.testing.station import PRODUCT, HandCamera
from runtime.testing.swapping import edit, make_station, with_threshold

IMAGE = np.zeros((2, 3), np.uint8)


class Changing:
    """A station whose workers say they are ready as soon as they are started, unless told otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.host: Host
        self.store = Store(path.parent / "store")
        #: What a worker says when it has loaded.
        self.says: Callable[[PlayedWorker], dict[str, Any]] = lambda _: {"op": "ready"}
        self._told: set[int] = set()

    @contextmanager
    def run(self) -> Iterator[None]:
        """Run the host in a thread of its own."""
        self.host = Host(load_station(self.path), (), self.path)
        thread = threading.Thread(target=self.host.run)
        thread.start()
        over = threading.Event()
        workers = threading.Thread(target=self._play, args=(over,))
        workers.start()
        try:
            self.wait(lambda status: status["ready"])
            yield
        finally:
            over.set()
            workers.join()
            self.host.stop()
            thread.join(30)
            for worker in self.workers:
                worker.end.close()
            assert not thread.is_alive()

    workers: list[PlayedWorker]

    def _play(self, over: threading.Event) -> None:
        """Have every worker that was started say its word, and end when it was asked to."""
        self.workers = []
        while not over.wait(0.005):
            for lane in self.host.routes.living():
                worker = lane.worker
                if worker.starts and worker not in self.workers:
                    self.workers.append(worker)
                    word = self.says(worker)
                    if word:
                        worker.end.send(word)
            for worker in self.workers:
                if worker.state is State.STOPPING:
                    worker.process.killed = True

    @property
    def address(self) -> str:
        """Where it is asked."""
        return self.host.station.status

    def wait(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask until the status is as wanted."""
        give_up = time.monotonic() + 30
        while not reached(status := ask_status(self.address, 10)):
            assert time.monotonic() < give_up, status
            time.sleep(0.01)
        return status

    def apply(self) -> dict[str, Any]:
        """Have the file applied; return the request once it is checked, with its swaps once each has come to rest."""
        request = ask(self.address, {"op": "apply", "who": "test"})["id"]

        def is_done(status: dict[str, Any]) -> bool:
            fate = next(each for each in status["applies"] if each["id"] == request)
            mine = [each for each in status["swaps"] if each["id"] in fate["swaps"]]
            return fate["state"] != "preparing" and all(each["state"] != "preparing" for each in mine)

        status = self.wait(is_done)
        fate = next(each for each in status["applies"] if each["id"] == request)
        return fate | {"swaps": [each for each in status["swaps"] if each["id"] in fate["swaps"]]}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the details of the ledger's events of one kind."""
        with Reader(self.host.station.ledger.file) as reader:
            return [each.detail for each in reader.events(kind=kind)]


@pytest.fixture
def make(tmp_path, monkeypatch) -> Callable[..., Changing]:
    """Return a maker of stations; keywords are keys of the station file or of its camera."""
    monkeypatch.setattr("runtime.lane.workers.Supervisor", PlayedSupervisor)
    return lambda **fields: Changing(make_station(tmp_path, **fields))


def test_nothing_to_change(make):
    """A file that asks for what runs is accepted, and nothing happens."""
    played = make()
    with played.run():
        assert (fate := played.apply())["state"] == "accepted"
        assert (fate["changes"], fate["swaps"]) == ([], [])


def test_what_the_host_holds_itself_needs_no_worker(make):
    """Another deadline, guard and limit of the worker take effect in the lane there is."""
    played = make(deadline_ms=1000)
    with played.run():
        lane = played.host.lanes["top"]
        edit(played.path, deadline_ms=20, guard=None)
        assert played.apply()["swaps"] == []
        assert played.host.lanes["top"] is lane
        assert (lane.pipeline.deadline_ns, lane.camera.guard) == (20_000_000, None)
        with HandCamera(played.host.station.frames) as camera:
            camera.send(IMAGE)
            assert camera.receipt().error is ErrorWord.DETECTOR_TIMEOUT


@pytest.mark.parametrize(("share", "swaps"), [("own", 0), ("shared", 1)])
def test_how_many_frames_go_together_concerns_shared_workers_alone(make, share, swaps):
    """Another ``worker.batch`` or ``batch_wait_ms`` replaces a worker that heeds them, and no other."""
    played = make(guard=None)
    edit(played.path, worker=share)
    with played.run():
        content = json.loads(played.path.read_text(encoding="utf-8"))
        content["worker"] |= {"batch": 4, "batch_wait_ms": 2.0}
        played.path.write_text(json.dumps(content), encoding="utf-8")
        fate = played.apply()
        assert (fate["state"], len(fate["swaps"])) == ("accepted", swaps)


def test_a_template_the_store_activated_is_taken_up(make):
    """A ref that moved takes effect with the next apply, not by itself; the running template is in the status."""
    played = make(guard=None)
    with played.run():
        digest = with_threshold(played.store, 0.7)
        assert ask_status(played.address)["cameras"]["top"]["template"] != digest
        (swap,) = played.apply()["swaps"]
        assert (swap["state"], swap["to"]["template"]) == ("active", digest)
        assert ask_status(played.address)["cameras"]["top"]["template"] == digest


def test_no_memory_for_two(make, monkeypatch):
    """Without room for a second worker the swap is refused with the figures, and no worker is started."""
    played = make()
    with played.run():
        edit(played.path, detector="nothing")
        monkeypatch.setattr("runtime.lane.memory.available_bytes", lambda _: (1024, "available"))
        (swap,) = played.apply()["swaps"]
        assert (swap["state"], "found 0 MB available" in swap["why"]) == ("refused", True)
        assert len(played.workers) == 1
        monkeypatch.undo()
    assert [each["step"] for each in played.events("swap")] == ["refused"]


def test_a_shared_worker_does_not_end_for_one_swap(make, monkeypatch):
    """With ``swap: stop`` a camera whose worker others share needs room for a second one, and is refused without."""
    monkeypatch.setattr("runtime.lane.memory.available_bytes", lambda *_: (2**20, "left on a small box"))
    played = make(swap="stop", recipes={"b": {"product": PRODUCT, "detector": "faulty"}})
    edit(played.path, worker="shared")
    with played.run():
        assert len({worker.supervisor for worker in played.workers}) == 1
        edit(played.path, detector="nothing")
        (swap,) = played.apply()["swaps"]
        assert swap["state"] == "refused"
        assert "left on a small box" in swap["why"]
        assert ask_status(played.address)["cameras"]["top"]["shared_with"] == ["top recipe b"]


def test_a_swap_to_what_runs_already_needs_no_memory(make, monkeypatch):
    """On a box without room a camera goes over to the template another lane's shared worker has, and joins it."""
    monkeypatch.setattr("runtime.lane.memory.available_bytes", lambda *_: (2**20, "left on a small box"))
    played = make(recipes={"b": {"product": PRODUCT, "detector": "nothing"}}, guard=None)
    edit(played.path, worker="shared")
    with played.run():
        assert len({worker.supervisor for worker in played.workers}) == 2
        edit(played.path, detector="nothing")
        (swap,) = played.apply()["swaps"]
        assert swap["state"] == "active", swap["why"]
        joined = [route.lane.worker for route in played.host.routes.by_camera.values()]
        assert [seat.shared_with for seat in joined] == [["top recipe b"]]


def test_a_refused_worker_and_the_next_attempt(make):
    """What the worker said is in the status; the file still asks for it, so the next apply tries again."""
    played = make(guard=None)
    with played.run():
        good = played.store.active(PRODUCT, "faulty").digest
        played.says = lambda _: {"op": "failed", "error": "TemplateError: golden frame 3"}
        edit(played.path, detector="nothing")
        (swap,) = played.apply()["swaps"]
        assert (swap["state"], "golden frame 3" in swap["why"]) == ("refused", True)
        assert ask_status(played.address)["cameras"]["top"]["template"] == good
        played.says = lambda _: {"op": "ready"}
        (swap,) = played.apply()["swaps"]
        assert swap["state"] == "active"


def test_the_store_forgets_a_template_that_failed(make):
    """A template whose worker was not fit is not what a restart comes up with; the log says who went back, and why."""
    played = make()
    with played.run():
        good = played.store.active(PRODUCT, "faulty").digest
        with_threshold(played.store, 0.7)
        played.says = lambda _: {"op": "failed", "error": "TemplateError: golden frame 3"}
        played.apply()
        played.wait(lambda _: played.store.active(PRODUCT, "faulty").digest == good)
    entry, took_effect = played.store.log(PRODUCT, "faulty")[-1]
    assert (entry.action, entry.who, took_effect) == ("rollback", "host", True)
    assert "golden frame 3" in entry.why


def test_somebody_elses_choice_is_not_undone(make):
    """A template activated meanwhile stays the active one, whatever becomes of the swap to the one before it."""
    played = make()
    with played.run():
        with_threshold(played.store, 0.7)
        third: list[str] = []

        def say(_: PlayedWorker) -> dict[str, Any]:
            third.append(with_threshold(played.store, 0.8))
            return {"op": "failed", "error": "TemplateError: no"}

        played.says = say
        played.apply()
        ask(played.address, {"op": "plan"})  # an errand behind the undoing
        assert played.store.active(PRODUCT, "faulty").digest == third[0]


def test_a_camera_comes_and_goes(make):
    """A new camera is inspected, and one that is taken out answers what it holds and is then unknown."""
    played = make()
    with played.run():
        content = json.loads(played.path.read_text(encoding="utf-8"))
        content["cameras"]["side"] = content["cameras"]["top"]
        played.path.write_text(json.dumps(content), encoding="utf-8")
        played.apply()
        status = played.wait(lambda status: status["ready"] and len(status["cameras"]) == 2)
        del content["cameras"]["top"]
        played.path.write_text(json.dumps(content), encoding="utf-8")
        played.apply()
        status = ask_status(played.address)
        assert [*status["cameras"]] == ["side"]
        with HandCamera(played.host.station.frames) as camera:
            camera.send(IMAGE)
            assert camera.receipt().reason == "unknown_camera"
        give_up = time.monotonic() + 20
        while played.host.routes.closing:
            assert time.monotonic() < give_up
            time.sleep(0.01)


def test_a_recipe_in_use_is_not_taken_out(make):
    """A file without the recipe that is current is refused: nobody chose what frames that name none would be."""
    played = make(recipes={"b": {"product": PRODUCT, "detector": "nothing"}})
    with played.run():
        assert ask(played.address, {"op": "recipe", "recipe": "b"})["ok"]
        edit(played.path, recipes={})
        fate = played.apply()
        assert (fate["state"], "recipe b" in fate["why"]) == ("refused", True)
        assert ask(played.address, {"op": "recipe", "recipe": ""})["ok"]
        assert played.apply()["state"] == "accepted"
    assert [(each["from"], each["to"]) for each in played.events("recipe")] == [("", "b"), ("b", "")]


def test_a_recipe_that_nobody_knows_any_more(make):
    """After the file of picked recipes was damaged no product is guessed: NotDecidable, until one is picked."""
    played = make(recipes={"b": {"product": PRODUCT, "detector": "nothing"}}, deadline_ms=50)
    folder = load_station(played.path).ledger.path
    chosen.write(folder, {"top": "b"})
    assert chosen.read(folder) == {"top": "b"}
    (folder / chosen.FILE).write_text('{"schema": "edgead.recipes/1", "cameras": {"top"', encoding="utf-8")
    with played.run(), HandCamera(played.host.station.frames) as camera:
        camera.send(IMAGE)
        assert camera.receipt().error is ErrorWord.BAD_COMMAND
        camera.send(IMAGE, recipe="b")
        assert camera.receipt().error is ErrorWord.DETECTOR_TIMEOUT
        assert ask(played.address, {"op": "recipe", "recipe": "b", "camera": "top"})["ok"]
        camera.send(IMAGE)
        assert camera.receipt().error is ErrorWord.DETECTOR_TIMEOUT


def test_a_file_of_recipes_that_was_deleted(make):
    """Where the ledger tells of a choice and the file of it is gone, the camera's own product is not guessed."""
    played = make(recipes={"b": {"product": PRODUCT, "detector": "nothing"}}, deadline_ms=50)
    with played.run():
        assert ask(played.address, {"op": "recipe", "recipe": "b"})["ok"]
    (load_station(played.path).ledger.path / chosen.FILE).unlink()
    with played.run(), HandCamera(played.host.station.frames) as camera:
        camera.send(IMAGE)
        assert camera.receipt().error is ErrorWord.BAD_COMMAND
        assert ask(played.address, {"op": "recipe", "recipe": ""})["ok"]
    (load_station(played.path).ledger.path / chosen.FILE).unlink()
    with played.run(), HandCamera(played.host.station.frames) as camera:
        camera.send(IMAGE)
        assert camera.receipt().error is ErrorWord.DETECTOR_TIMEOUT


def test_no_recipe_is_picked_without_a_ledger(make):
    """Where a choice could not be remembered it is not taken."""
    played = make(recipes={"b": {"product": PRODUCT, "detector": "nothing"}}, ledger=None)
    with played.run():
        answer = ask(played.address, {"op": "recipe", "recipe": "b"})
        assert (answer["ok"], "ledger" in answer["error"]) == (False, True)
        assert ask_status(played.address)["cameras"]["top"]["recipe"] == ""


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"op": "dance"}, "expected an op of"),
        ({}, "expected an op of"),
        ({"op": "apply", "fiel": "x"}, "found fiel"),
        ({"op": "apply", "file": 7}, "expected file as text"),
        ({"op": "apply", "file": "other.yaml"}, "expected the station file this host was started with"),
        ({"op": "apply", "file": "a\0b"}, "expected the station file this host was started with"),
        ({"op": "plan", "file": "\ud800"}, "expected the station file this host was started with"),
        ({"op": "recipe"}, "expected a recipe"),
        ({"op": "recipe", "recipe": "c"}, "expected a recipe the station knows"),
        ({"op": "recipe", "recipe": "", "camera": "side"}, "no such camera"),
        ({"op": "apply", "why": "x" * 1001}, "as text of at most 1000"),
        ({"op": "apply", "why": "x" * 5000}, "at most 4096 bytes"),
    ],
)
def test_requests_that_are_none(make, request_, words):
    """Whatever cannot be done is answered with a sentence, and the host goes on."""
    played = make()
    with played.run():
        answer = ask(played.address, request_)
        assert (answer["ok"], words in answer["error"]) == (False, True), answer
        assert ask_status(played.address)["ready"]


def test_plans_without_end(make, monkeypatch):
    """While a few plans are being made no more are taken: what somebody asks for must not pile up in memory."""
    played, go_on, answers = make(), threading.Event(), []
    with played.run():

        def wait(*_: Any) -> None:
            assert go_on.wait(20)
            raise ConfigError("read at last")

        with monkeypatch.context() as patched:
            patched.setattr("runtime.changing.changeover.read_wanted", wait)
            for _ in range(MOST_PLANS):
                played.host.changeover.plan(None, answers.append)
            assert f"at most {MOST_PLANS} plans" in ask(played.address, {"op": "plan"})["error"]
            go_on.set()
            played.wait(lambda _: len(answers) == MOST_PLANS)
        assert ask(played.address, {"op": "plan"})["ok"]


def test_no_shared_memory_for_another_lane(make, monkeypatch):
    """A swap and a new camera that find no descriptor are refused with the reason; the host and its lanes go on."""
    played = make()
    with played.run():
        lane = played.host.lanes["top"]
        edit(played.path, detector="nothing")
        content = json.loads(played.path.read_text(encoding="utf-8"))
        content["cameras"]["side"] = content["cameras"]["top"]
        played.path.write_text(json.dumps(content), encoding="utf-8")

        def no_descriptor(*_: Any) -> None:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr("runtime.lane.lane.Slots.create", no_descriptor)
            swaps = played.apply()["swaps"]
        assert {(each["camera"], each["state"]) for each in swaps} == {("top", "refused"), ("side", "refused")}
        assert all("Too many open files" in each["why"] for each in swaps)
        assert (played.host.lanes, played.wait(lambda _: True)["ready"]) == ({"top": lane}, True)


def test_a_guard_changed_while_a_worker_loads(make):
    """The guard that the file asks for last counts, also for a worker that is being prepared already."""
    played = make()
    with played.run():
        played.says = lambda _: {}
        edit(played.path, detector="nothing")
        ask(played.address, {"op": "apply"})
        played.wait(lambda status: status["swaps"] and len(played.workers) == 2)
        edit(played.path, guard=None)
        ask(played.address, {"op": "apply"})
        played.wait(lambda status: len(status["applies"]) == 2 and status["applies"][1]["state"] == "accepted")
        played.workers[1].end.send({"op": "ready"})
        (swap,) = played.wait(lambda status: status["swaps"][0]["state"] != "preparing")["swaps"]
        assert swap["state"] == "active"


def test_a_stop_and_swap_that_is_called_off(make):
    """A file that asks again for what was stopped has it started once, without one more swap to the same."""
    played = make(swap="stop")
    with played.run():
        played.says = lambda _: {}
        edit(played.path, detector="nothing")
        ask(played.address, {"op": "apply"})
        # Its worker has had its silent start: one that is met later would be told that it is ready.
        played.wait(lambda status: status["cameras"]["top"]["detector"] == "nothing" and len(played.workers) == 2)
        played.says = lambda _: {"op": "ready"}
        edit(played.path, detector="faulty")
        assert played.apply()["swaps"] == []
        status = played.wait(lambda status: status["ready"])
        assert [each["state"] for each in status["swaps"]] == ["refused"]
        assert status["cameras"]["top"]["detector"] == "faulty"


def test_workers_end_together(make, monkeypatch):
    """However many workers there are when a host ends, it waits for all of them as long as for one."""
    played, patience = make(recipes={"b": {"product": PRODUCT, "detector": "nothing"}}), []

    def stop(worker: PlayedWorker, seconds: float) -> None:
        patience.append(seconds)
        time.sleep(0.1)
        worker.process.killed = True

    with played.run():
        monkeypatch.setattr(PlayedWorker, "stop", stop)
    assert len(patience) == 2
    assert patience[1] <= patience[0] - 0.1 <= STOP_S - 0.1


def test_the_plan(make):
    """What the file would change is told without touching anything, keys that need a restart too."""
    played = make()
    with played.run():
        edit(played.path, detector="nothing")
        plan = ask(played.address, {"op": "plan", "file": str(played.path)})["plan"]
        assert plan["swapped"] == [["top", ""]]
        assert ask_status(played.address)["swaps"] == []
        played.path.write_text("schema: [", encoding="utf-8")
        assert not ask(played.address, {"op": "plan"})["ok"]
