"""The worker's edge: what a broken camera, a dead engine or a failed self-test becomes, and when the process ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from runtime.detector import DetectorContext
from runtime.engines.engine import Engine
from runtime.engines.parity import law_of
from runtime.engines.selftest import keep
from runtime.inspection import ErrorWord
from runtime.station.config import Exposure
from runtime.store.template import GoldenFrame
from runtime.testing import faulty
from runtime.testing.faulty import Fault, Faulty, marked, right_answer
from runtime.worker.door import ENGINE_KEYS, Door, Newcomer
from runtime.worker.inspector import FrameChecks, Inspector
from runtime.worker.lifesigns import EngineSigns
from runtime.worker.link import Link
from runtime.worker.rounds import MAX_FAILURES, Rounds
from runtime.worker.slots import Slots

SHAPE = (40, 60)
RANDOM = np.random.default_rng(0)


def picture() -> np.ndarray:
    """Return a new exposure: uint8 noise that asks for no fault."""
    return RANDOM.integers(10, 240, SHAPE, dtype=np.uint8)


class Desk:
    """A lane in a worker, and the slot its frames lie in."""

    def __init__(self, slots: Slots, exposure: dict[str, Any] | None, repeat_limit: int | None) -> None:
        detector = Faulty()
        content = detector.calibrate([], detector.settings_model(), DetectorContext())
        self.slots = slots
        golden_picture = picture()
        golden = GoldenFrame(golden_picture, *right_answer(golden_picture))
        self.golden = keep(golden, law_of([golden], None))
        self.engine = Engine(detector, content, threads=1)
        self.setup = dict.fromkeys(ENGINE_KEYS) | {"map": "raw", "preview": False}
        self.setup |= {"exposure": exposure, "repeat_limit": repeat_limit}
        checks = FrameChecks(exposure, repeat_limit, EngineSigns())
        self.inspector = Inspector(slots, checks, detector.name, map_encoding="raw", preview=False)
        self.frame_id = 0

    def record(self, image: np.ndarray, *, live: bool = True) -> dict[str, Any]:
        """Put an image into the slot; return the host's record about it."""
        self.frame_id += 1
        shape = [*image.shape, 1] if image.ndim == 2 else list(image.shape)
        self.slots.frame(0, image.nbytes)[:] = np.ascontiguousarray(image).data.cast("B")
        pixel_format = "mono8" if shape[2] == 1 else "rgb8"
        name = [1, self.frame_id]
        return {"op": "inspect", "ticket": 1, "slot": 0, "shape": shape, "format": pixel_format} | {
            "frame": name,
            "live": live,
        }

    def answer(self, image: np.ndarray, *, live: bool = True) -> dict[str, Any]:
        """Return the record that answers an image."""
        record = self.record(image, live=live)
        answer, seen = self.inspector.begin(record)
        if seen is not None:
            (outcome,) = self.engine.infer_many([seen])
            self.inspector.finish(record, answer, seen, outcome)
        return answer

    def word(self, image: np.ndarray, *, live: bool = True) -> str:
        """Return what an image becomes: ``done``, or the error word."""
        answer = self.answer(image, live=live)
        return str(answer.get("error", answer["op"]))

    def serve(self, *records: dict[str, Any]) -> list[dict[str, Any]]:
        """Send records over a link; return the answers until the worker stopped by itself or ran out of records."""
        host, theirs = Link.pair()
        for record in records:
            host.send(record)
        host.send({"op": "stop"})
        theirs.settimeout(5)
        door, outside = Door.pair()
        rounds = Rounds(self.engine, self.golden, Door(outside), {"op": "ready"})
        slots = Slots(os.dup(self.slots.fd), self.slots.count, self.slots.frame_bytes, self.slots.answer_bytes)
        rounds.admit(Newcomer(Link(theirs), slots, self.setup))
        door.close()  # nobody else comes
        rounds.serve()
        answers = []
        with contextlib.suppress(EOFError):
            while (answer := host.receive()) is not None:
                answers.append(answer)
        for end in (host, door, theirs, outside):
            end.close()
        assert answers.pop(0) == {"op": "ready"}
        return answers


@pytest.fixture
def make_desk() -> Iterator[Callable[..., Desk]]:
    """Return a maker of desks; default limits of exposure and repetition."""
    slots = Slots.create(1, 4096 * 3, 4096)

    def make(exposure: dict[str, Any] | None = Exposure().model_dump(), repeat_limit: int | None = 2) -> Desk:  # noqa: B008
        return Desk(slots, exposure, repeat_limit)

    yield make
    faulty._lasting.clear()
    slots.close()


@pytest.fixture
def desk(make_desk) -> Desk:
    """Return a desk with the default checks."""
    return make_desk()


def test_good_frames_pass(desk):
    """Frame after frame of a living camera, grey or colour, is inspected."""
    assert [desk.word(picture()) for _ in range(5)] == ["done"] * 5
    assert desk.word(np.dstack([picture(), picture(), picture()])) == "done"


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_frame_that_shows_nothing(make_desk, level):
    """Black, grey and white frames never reach the detector; with the check off they do."""
    image = np.full(SHAPE, level, np.uint8)
    desk = make_desk()
    answer = desk.answer(image)
    assert (answer["op"], answer["error"]) == ("undecided", ErrorWord.FRAME_EXPOSURE)
    assert "expected" in answer["detail"]
    assert "score" not in answer
    assert make_desk(exposure=None).word(image) == "done"


def test_a_frozen_camera(make_desk):
    """From the limit on a live camera's repeated picture is refused; a new picture is inspected again."""
    image = picture()
    desk = make_desk()
    assert [desk.word(each) for each in (image, image, image, picture())] == ["done", *["frame_repeated"] * 2, "done"]
    patient = make_desk(repeat_limit=3)
    assert [patient.word(image) for _ in range(4)] == ["done", "done", *["frame_repeated"] * 2]
    assert [make_desk(repeat_limit=None).word(image) for _ in range(4)] == ["done"] * 4


def test_a_replayed_picture_may_repeat(desk):
    """What a folder or a simulator sends twice is inspected twice, to the same answer."""
    image = picture()
    assert [desk.word(image, live=False) for _ in range(4)] == ["done"] * 4


DEAD = [Fault.ZERO_MAP, Fault.FLAT_MAP, Fault.OLD_MAP, Fault.NAN_MAP, Fault.NAN_SCORE, Fault.MAP_SHAPE]


@pytest.mark.parametrize("fault", DEAD, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("checks", [{}, {"exposure": None, "repeat_limit": None}], ids=["checks on", "checks off"])
def test_a_dead_engine_is_never_ok(make_desk, fault, checks):
    """Zeros, one value, the map of the frame before, NaN or another shape: result_bad, and the next frame is fine.

    No setting turns it off.
    """
    desk = make_desk(**checks)
    assert desk.word(picture()) == "done"
    answer = desk.answer(marked(picture(), fault))
    assert (answer["op"], answer["error"]) == ("undecided", ErrorWord.RESULT_BAD)
    assert "faulty" in answer["detail"]
    assert desk.word(picture()) == "done"


def test_a_dead_engine_is_replaced(make_desk):
    """An engine that answers zeros from now on ends its process after a few frames: a fresh one may live."""
    desk = make_desk(repeat_limit=None)  # there is one slot: all records see the last picture
    records = [desk.record(marked(picture(), Fault.DIE_OUT)) for _ in range(MAX_FAILURES + 3)]
    answers = desk.serve(*records)
    assert [answer["error"] for answer in answers] == [ErrorWord.RESULT_BAD] * MAX_FAILURES


def test_a_broken_camera_does_not_cost_the_worker(desk):
    """Frames refused before the detector say nothing about the process: it stays, and does not forget its failures."""
    black = desk.record(np.zeros(SHAPE, np.uint8))
    answers = desk.serve(*[black] * (2 * MAX_FAILURES))
    assert [answer["error"] for answer in answers] == [ErrorWord.FRAME_EXPOSURE] * 2 * MAX_FAILURES


PING, TEST = {"op": "ping", "golden": False}, {"op": "ping", "golden": True}


def test_signs_of_life(desk):
    """The loop itself answers what the host asks of an idle worker, with and without a golden frame."""
    assert desk.serve(PING, TEST) == [{"op": "alive", "golden": False}, {"op": "alive", "golden": True}]


def test_a_template_without_golden_frames(desk):
    """Without a golden frame the worker lives, and does not claim a self-test."""
    desk.golden = None
    assert desk.serve(TEST) == [{"op": "alive", "golden": False}]


@pytest.mark.parametrize("fault", [Fault.DRIFT, Fault.DIE_OUT, Fault.POISON], ids=lambda fault: fault.name.lower())
def test_a_self_test_that_fails_ends_the_process(desk, fault):
    """A detector that drifted, died or was poisoned since the start says so over a golden frame, and serves no more."""
    desk.word(marked(picture(), fault))
    (answer,) = desk.serve(TEST, PING)
    assert answer["op"] == "unfit"
    assert type(answer["error"]) is str
