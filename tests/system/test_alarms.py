"""Broken cameras, dead engines and hung workers on a real station: never OK, and found before the next part."""

from __future__ import annotations

import os
import re
import signal
import time

import numpy as np
import pytest

from runtime.detector import DetectorContext
from runtime.inspection import ErrorWord, Verdict
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.store.template import GoldenFrame
from runtime.testing.faulty import Fault, Faulty, marked, right_answer
from runtime.testing.station import PRODUCT, local_station

pytestmark = pytest.mark.system

FAULTY = ("runtime.testing.faulty",)
#: The defaults of a station file, which the other system tests switch off.
LIMITS = {"exposure": {}, "repeat_limit": 2}


def words(camera, *images) -> list[str]:
    """Send images one after the other; return each verdict's error word, ``none`` where it was decided."""
    return [camera.answer(image).error.value for image in images]


def test_pictures_that_show_nothing_are_never_ok(start, picture):
    """Black, white, flat and frozen pictures are NotDecidable, although the detector finds all of them normal."""
    station = start(**LIMITS)
    black, grey = np.zeros((32, 48), np.uint8), np.full((32, 48), 30, np.uint8)
    with station.camera() as camera:
        # Four pixels more each time: a frame is sampled, and a real camera's noise is everywhere.
        one, two, three = (picture(4 * number) for number in (1, 2, 3))
        found = words(camera, one, black, black, grey, ~black, two, two, one, three)
    exposure, repeated = ErrorWord.FRAME_EXPOSURE.value, ErrorWord.FRAME_REPEATED.value
    assert found == ["none", *[exposure] * 4, "none", repeated, repeated, "none"]
    status = station.status()["cameras"]["top"]
    assert (status["not_decidable"], status["restarts"]) == (6, 0)


def test_a_dead_engine_is_never_ok_and_is_replaced(start, picture):
    """An engine that answers score 0 and zeros for ever: NotDecidable, and after five frames a fresh process."""
    station = start(**LIMITS)
    with station.camera() as camera:
        images = [marked(picture(4), Fault.DIE_OUT), *(picture(4 * number) for number in range(2, 6))]
        assert words(camera, *images) == [ErrorWord.RESULT_BAD.value] * 5
        station.wait(lambda status: status["ready"] and status["cameras"]["top"]["restarts"] == 1)
        receipt = camera.answer(picture(28))
    assert receipt.verdict in {Verdict.OK, Verdict.NOT_OK}


@pytest.mark.slow
def test_an_idle_worker_that_hangs_is_found_before_the_next_part(start, picture):
    """A worker that stands still with no frame in hand is replaced by itself; the next part is inspected in time."""
    station = start(worker={"threads": 1, "hang_s": 2.0})
    first = station.status()["cameras"]["top"]["worker_pid"]
    os.kill(first, signal.SIGSTOP)
    began = time.monotonic()
    status = station.wait(lambda status: status["cameras"]["top"]["restarts"] == 1)
    assert "silent for 2 s while idle" in status["cameras"]["top"]["last_error"]
    assert time.monotonic() - began < 10
    station.wait(lambda status: status["ready"])
    with station.camera() as camera:
        assert words(camera, picture(1)) == ["none"]
    assert station.status()["cameras"]["top"]["worker_pid"] != first


def give_golden_frame(store: Store, image: np.ndarray) -> None:
    """Replace the active template by one with a golden frame."""
    detector = Faulty()
    content = detector.calibrate([], detector.settings_model(), DetectorContext())
    template = store.put_template(
        product=PRODUCT,
        detector=DetectorIdentity(name=detector.name, version=detector.version, distribution="edgead"),
        settings=content.settings,
        bank=content.tensors,
        capacity=content.capacity,
        valid=content.valid,
        map_shape=content.map_shape,
        thresholds=Thresholds(image=0.5, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
        golden=[GoldenFrame(image, *right_answer(image))],
        who="test",
    )
    store.activate(template.digest, who="test")


@pytest.mark.slow
def test_a_detector_that_drifts_is_found_while_idle(tmp_path, picture, station_file):
    """A worker whose scores sank since its start fails the next self-test, and its successor scores rightly."""
    path = station_file(worker={"threads": 1, "self_test_s": 1.0})
    give_golden_frame(Store(tmp_path / "store"), picture(100))
    with local_station(path, FAULTY) as station, station.camera() as camera:
        station.wait(lambda status: status["cameras"]["top"]["self_tests"] >= 1)
        assert words(camera, marked(picture(1), Fault.DRIFT)) == ["none"]
        station.wait(lambda status: status["cameras"]["top"]["restarts"] == 1 and status["ready"])
        with station.subscriber() as subscriber:
            camera.send(picture(2))
            received = subscriber.receive(60_000)
        log = station.log.read_text(encoding="utf-8")
    assert re.search(r"failed its self-test: TemplateError: .*golden frame 0\b.*expected score", log)
    assert received.inspection.score == pytest.approx(right_answer(picture(2))[1], abs=1e-6)


@pytest.mark.slow
def test_a_spent_restart_budget_answers_at_once(start, picture):
    """A worker that cannot load is failed after its budget: frames with a far deadline are answered without waiting."""
    station = start(
        reached=lambda status: status["state"] == "failed",
        settings={"graph_raises": True},
        worker={"threads": 1, "restart_budget": 1},
    )
    began = time.monotonic()
    with station.camera() as camera:
        assert words(camera, picture(1), picture(2)) == [ErrorWord.DETECTOR_CRASH.value] * 2
    assert time.monotonic() - began < 5
    assert station.status()["cameras"]["top"]["worker"] == "failed"
