"""Three cameras on one worker: one process and one bank, the answers of three, and every frame still answered once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from runtime.inspection import ErrorWord, Verdict
from runtime.store import Store
from runtime.testing.faulty import Fault, Faulty, marked, right_answer
from runtime.testing.nothing import Nothing
from runtime.testing.station import PRODUCT, LocalStation, local_station, put_template, write_station
from runtime.testing.swapping import PLUGINS, hang_up, newest

pytestmark = pytest.mark.system
NAMES = ("top", "side", "end")
HANG_S = 0.5
SHARED = {"product": PRODUCT, "detector": "faulty", "worker": "shared", "deadline_ms": 60_000, "queue": 64}


@pytest.fixture(scope="module")
def station(tmp_path_factory) -> Iterator[LocalStation]:
    """Run a station of three cameras that share a worker."""
    folder = tmp_path_factory.mktemp("shared")
    put_template(Store.create(folder / "store"), Faulty(), 0.5)
    worker = {"threads": 1, "hang_s": HANG_S, "restart_budget": 100}
    cameras = {name: SHARED | {"guard": None} for name in NAMES}
    with local_station(write_station(folder, cameras, worker=worker, max_frame_bytes=65536), PLUGINS) as running:
        yield running


def picture(number: int) -> np.ndarray:
    """Return picture ``number``: noise of a level of its own, below or above the threshold of 0.5."""
    random = np.random.default_rng(number)
    return random.integers(0, 100, (24, 32), dtype=np.uint8) + np.uint8(number * 7 % 150)


def pids(status) -> set[int | None]:
    """Return the worker processes of a station."""
    return {camera["worker_pid"] for camera in status["cameras"].values()}


def results_of(subscriber, cameras, earlier=()):
    """Return the inspections, with those taken earlier, by camera and frame id; each frame has exactly one."""
    sent = sum(camera.sent for camera in cameras)
    found = [*earlier, *(subscriber.receive(60_000).inspection for _ in range(sent - len(earlier)))]
    assert subscriber.receive(200) is None
    for camera in cameras:
        ids = [each.frame_id for each in found if each.session == camera.session]
        assert sorted(ids) == list(range(camera.sent))
    return {(each.camera, each.frame_id): each for each in found}


def is_right(inspection, image) -> bool:
    """Tell whether score and verdict are the image's own: as a worker of one camera gives them."""
    score = right_answer(image)[1]
    return abs(inspection.score - score) < 1e-6 and inspection.verdict is (
        Verdict.NOT_OK if score > 0.5 else Verdict.OK
    )


def test_one_process_serves_three_cameras_and_may_be_killed(station):
    """300 frames, the one worker killed twice: an answer each, right or NotDecidable, at most two lost a camera a kill.

    One process before and after; the death is counted once for each camera, and no camera is restarted by itself.
    """
    before = station.status()
    assert len(pids(before)) == 1
    assert before["cameras"]["top"]["shared_with"] == ["side", "end"]
    with ExitStack() as stack:
        subscriber = stack.enter_context(station.subscriber())
        cameras = [stack.enter_context(station.camera(name)) for name in NAMES]
        sent = {}
        for number in range(100):
            for camera in cameras:
                image = picture(3 * number + cameras.index(camera))
                sent[camera.name, camera.send(image)] = image
            if number in (30, 60):
                status = station.wait(lambda status: all(c["worker"] == "ready" for c in status["cameras"].values()))
                os.kill(status["cameras"]["top"]["worker_pid"], signal.SIGKILL)
            if number % 10 == 9:
                for camera in cameras:
                    camera.receipts(10)
        found = results_of(subscriber, cameras)
    lost = [key for key, each in found.items() if each.verdict is Verdict.NOT_DECIDABLE]
    assert {found[key].error for key in lost} <= {ErrorWord.DETECTOR_CRASH}
    assert len(lost) <= 2 * len(NAMES)
    assert all(is_right(found[key], image) for key, image in sent.items() if key not in lost)
    after = station.wait(lambda status: status["ready"])
    assert len(pids(after)) == 1
    assert {camera["restarts"] for camera in after["cameras"].values()} == {2}


def test_a_hang_of_one_camera_concerns_all(station):
    """A frame that hangs the worker is answered, as is one of each other camera; then one new worker serves all."""
    before = station.status()
    with station.subscriber() as subscriber, station.camera("top") as top, station.camera("side") as side:
        top.send(marked(picture(1), Fault.HANG))
        side.send(picture(2))
        for camera in (top, side):
            camera.receipts(1)
        for camera in (top, side):
            camera.send(picture(3))
        found = results_of(subscriber, [top, side])
    assert found["top", 0].error is ErrorWord.DETECTOR_CRASH
    behind = found["side", 0]
    assert behind.error is ErrorWord.DETECTOR_CRASH or is_right(behind, picture(2)), "it may have gone first"
    assert all(is_right(found[name, 1], picture(3)) for name in ("top", "side"))
    after = station.wait(lambda status: status["ready"])
    assert len(pids(after)) == 1
    assert not pids(after) & pids(before)


@pytest.mark.slow
def test_one_camera_is_swapped_while_the_others_run(tmp_path):
    """Another detector for one camera: one process more, no gap; the next joins it; after the last the old one ends."""
    store = Store.create(tmp_path / "store")
    put_template(store, Nothing(), 0.5)
    put_template(store, Faulty(), 0.5)
    cameras = {name: SHARED | {"guard": None} for name in NAMES}
    # Half of it is how long a swap loads out of the others' way, where there may be no time left over.
    worker = {"threads": 1, "start_timeout_s": 40}
    path = write_station(tmp_path, cameras, worker=worker, max_frame_bytes=65536)
    with ExitStack() as stack:
        station = stack.enter_context(local_station(path, PLUGINS))
        subscriber = stack.enter_context(station.subscriber())
        line = [stack.enter_context(station.camera(name)) for name in NAMES]
        joined: set[int | None] = set()
        earlier = []

        def bring_one_each() -> None:
            for camera in line:
                camera.answer(picture(camera.sent))
            earlier.extend(subscriber.receive(60_000).inspection for _ in line)

        for moved in (1, 2, 3):
            content = json.loads(path.read_text(encoding="utf-8"))
            content["cameras"][NAMES[moved - 1]]["detector"] = "nothing"
            path.write_text(json.dumps(content), encoding="utf-8")
            hang_up(station)
            while newest(status := station.status())["state"] != "active" or len(status["swaps"]) < moved:
                bring_one_each()
            workers = {name: status["cameras"][name]["worker_pid"] for name in NAMES}
            joined.add(workers["top"])
            assert len({workers[name] for name in NAMES[:moved]}) == 1
            assert len(set(workers.values())) == (1 if moved == len(NAMES) else 2)
            bring_one_each()
        found = results_of(subscriber, line, earlier)
    assert len(joined) == 1, "the second and the third joined the worker of the first"
    assert {each.error for each in found.values()} == {ErrorWord.NONE}
    for camera in line:
        by = [found[camera.name, number].detector for number in range(camera.sent)]
        flip = by.index("nothing")
        assert flip > 0
        assert by == ["faulty"] * flip + ["nothing"] * (camera.sent - flip)
