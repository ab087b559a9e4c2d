"""Several frames in one call: same answers in the same order, and nobody's trouble becomes a neighbour's."""

import numpy as np
import pytest
import torch

from runtime.engines.engine import Engine, ResultError
from runtime.engines.program import Batches

SHAPE = (32, 40, 3)
OTHER = (24, 24, 3)


class Counted:
    """The small detector's graph as a program for ``size`` frames; ``spoil`` may change what it answers."""

    def __init__(self, spot, size, spoil=lambda m, s: (m, s)):
        self.graph, self.size, self.spoil, self.calls = spot.Graph(1.0, 3).eval(), size, spoil, 0

    def __call__(self, frames, rows):
        """Answer a whole batch and no other."""
        assert frames.shape[0] == self.size
        assert frames.is_contiguous()
        self.calls += 1
        return self.spoil(*self.graph(frames, rows))


@pytest.fixture
def engine(spot):
    """Return a function that makes an engine with a program for so many frames, and that program."""

    def make(size=3, least=2, **options):
        made, program = Engine(spot.Spot(), spot.content_of(2), threads=1), Counted(spot, size, **options)
        made.use_batches(Batches(size, least, {SHAPE: program}))
        return made, program

    return make


def same(found, expected):
    """Compare two answers to rounding."""
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-5, atol=1e-6)
    assert found.score == pytest.approx(expected.score, rel=1e-5)


@pytest.mark.parametrize(("count", "calls"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2)])
def test_every_frame_has_its_own_answer_in_its_place(spot, engine, count, calls):
    """However many frames come, each answer is that of its frame alone; whole batches and large rests go together."""
    made, program = engine()
    images = [spot.image(seed) for seed in range(count)]
    for found, image in zip(made.infer_many(images), images, strict=True):
        same(found, made.infer(image))
    assert program.calls == calls


def test_a_rest_that_does_not_pay_goes_alone(spot, engine):
    """Filling a batch up is done only from so many frames on as the engine was told."""
    made, program = engine(size=4, least=3)
    images = [spot.image(seed) for seed in range(6)]  # one whole batch, two left
    found = made.infer_many(images)
    assert program.calls == 1
    for each, image in zip(found, images, strict=True):
        same(each, made.infer(image))


def test_frames_of_other_shapes_go_alone(spot, engine):
    """A mixed group keeps its order; only frames of the program's shape and uint8 go through it."""
    made, program = engine()
    images = [spot.image(0), spot.image(1, OTHER), spot.image(2), spot.image(3, OTHER), spot.image(4)]
    for found, image in zip(made.infer_many(images), images, strict=True):
        same(found, made.infer(image))
    assert program.calls == 1


def test_a_bad_frame_costs_its_neighbours_nothing(spot, engine):
    """What is no image is an error in its own place; a batch of the others is answered, and later ones too."""
    made, program = engine()
    bad = [np.zeros(5, np.uint8), spot.image(1).astype(np.float64)]
    images = [spot.image(0), bad[0], spot.image(2), bad[1], spot.image(3)]
    found = made.infer_many(images)
    assert isinstance(found[1], Exception)
    assert program.calls == 1
    for place in (0, 2, 4):
        same(found[place], made.infer(images[place]))
    assert made.batch == 3


def test_an_answer_that_is_not_finite_is_asked_for_alone(spot, engine):
    """Where a batch answers NaN for one frame, that frame alone is inspected again, by itself."""

    def spoil(maps, scores):
        return maps, scores.index_fill(0, torch.tensor([1]), float("nan"))

    made, program = engine(spoil=spoil)
    images = [spot.image(seed) for seed in range(3)]
    for found, image in zip(made.infer_many(images), images, strict=True):
        same(found, made.infer(image))
    assert (program.calls, made.batch) == (1, 3)


def fail(_maps, _scores):
    """Fail as torch does."""
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("spoil", [fail, lambda m, s: (m[:2], s[:2]), lambda m, s: (m, s[:, None])])
def test_a_batch_that_fails_is_answered_one_by_one(spot, engine, spoil, caplog):
    """A program that raises or answers in another shape costs nobody an answer, and is never asked again."""
    made, program = engine(spoil=spoil)
    images = [spot.image(seed) for seed in range(3)]
    for _ in range(2):
        for found, image in zip(made.infer_many(images), images, strict=True):
            same(found, made.infer(image))
    assert (program.calls, made.batch) == (1, 1)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_without_programs_frames_go_one_by_one(spot):
    """An engine that was given no program for several frames says 1, answers all, and each error in its place."""
    made = Engine(spot.Spot(), spot.content_of(2), threads=1)
    images = [spot.image(0), spot.image(1)]
    assert made.batch == 1
    for found, image in zip(made.infer_many(images), images, strict=True):
        same(found, made.infer(image))
    programs = {SHAPE: lambda frames, _rows: (frames, frames)}
    wrong = Engine(made.detector, made.content, threads=1, programs=programs).infer_many(images)
    assert [type(each) for each in wrong] == [ResultError, ResultError]


def test_batches_run_in_inference_mode(spot, engine):
    """No gradients are kept, whether or not the caller has entered inference mode."""
    modes = []
    made, _ = engine(spoil=lambda m, s: modes.append(torch.is_inference_mode_enabled()) or (m, s))
    made.infer_many([spot.image(0), spot.image(1)])
    assert modes == [True]
