"""What several frames at once must prove: the gate's limits in any company, and that it pays."""

import time

import numpy as np
import pytest

from runtime.engines import company
from runtime.engines.company import bring_together, prove, worth_it
from runtime.engines.engine import Engine
from runtime.errors import EngineError

SHAPE = (32, 40, 3)


@pytest.fixture
def case(spot, store):
    """Return an engine of the small detector, and its five golden frames."""
    template = spot.put(store, spot.content_of(2), shapes=[SHAPE] * 5)
    return Engine(spot.Spot(), template.content(), threads=1), template.golden()


def judged(case, program, size=3):
    """Return the report on a program."""
    engine, golden = case
    return prove(engine, {SHAPE: program}, size, golden, threshold=None, precision="fp32")


@pytest.mark.parametrize("size", [2, 3, 4, 7, 32])
def test_a_graph_that_keeps_frames_apart_passes(case, size):
    """The eager graph with several frames gives the golden answers, whatever the size; the report has each once."""
    engine, _ = case
    report = judged(case, engine.program(SHAPE), size)
    assert report.passed
    assert [frame.index for frame in report.frames] == [0, 1, 2, 3, 4]


def test_no_place_in_a_batch_is_left_out(case):
    """A program that is wrong at one place only, whichever, is refused: golden frames come to every place."""
    size = 9  # more than there are golden frames
    for place in range(size):

        def wrong(frames, rows, place=place):
            maps, scores = case[0].program(SHAPE)(frames, rows)
            maps[place] += 0.5
            return maps, scores

        assert not judged(case, wrong, size).passed


def mean_of_all(frames):
    """Return the batch's mean grey level."""
    return frames.float().mean()


@pytest.mark.parametrize(
    "leak",
    [
        lambda frames: frames.float().mean() / 128,
        lambda frames: frames.float().flatten(1).std(1).amin() / 64,
        lambda frames: (frames[0] == 0).all().float() * 2,
    ],
    ids=["mean", "least contrast", "black neighbour"],
)
def test_a_frame_that_sees_its_neighbours_is_refused(case, leak):
    """Whatever a graph lets through from one frame to another shows beside a black, white or noisy stranger."""
    engine, golden = case
    alone = {frame.frame.tobytes(): leak(_tensor(frame.frame)) for frame in golden}

    def leaking(frames, rows):
        maps, scores = engine.program(SHAPE)(frames, rows)
        own = [alone.get(frame.numpy().tobytes(), 0.0) for frame in frames]
        shift = [float(leak(frames) - each) for each in own]
        return maps + _column(shift), scores

    report = judged(case, leaking)
    assert not report.passed
    assert "map" in report.failed[0].failed


def _tensor(frame):
    import torch

    return torch.from_numpy(np.ascontiguousarray(frame[None]))


def _column(values):
    import torch

    return torch.tensor(values)[:, None, None]


def test_a_program_that_fails_is_an_engine_error(case):
    """Torch's own words for too little memory, or answers of another shape, come as the gate's error."""

    def fail(*_):
        raise RuntimeError("out of memory\nTried to allocate")

    with pytest.raises(EngineError, match=r"3 frames at once failed: RuntimeError: out of memory$"):
        judged(case, fail)
    with pytest.raises(EngineError, match="expected a map of shape"):
        judged(case, lambda frames, _rows: (frames, frames))


def slow(program, seconds):
    """Return a program that takes longer."""

    def call(*tensors):
        time.sleep(seconds)
        return program(*tensors)

    return call


@pytest.mark.parametrize(
    ("one_ms", "many_ms", "least"), [(10, 4, 2), (10, 19.5, 3), (10, 25, 3), (10, 39, 0), (10, 100, 0)]
)
def test_it_pays_from_where_so_many_one_by_one_take_longer(case, monkeypatch, one_ms, many_ms, least):
    """The least number of frames follows from both times, with a margin; 0 where even a whole batch saves nothing."""
    monkeypatch.setattr(company, "_least_ms", lambda *_calls: [one_ms, many_ms])
    found, figures = worth_it(case[0], None, 4, None)
    assert found == least
    assert figures == f"4 frames at once take {many_ms:g} ms, one takes {one_ms:g} ms"


def test_times_are_measured(case):
    """An engine whose batches are slow goes on one by one and says why; one whose are not brings frames together."""
    engine, golden = case
    graph = engine.program(SHAPE)
    told = bring_together(engine, {SHAPE: slow(graph, 0.2)}, 2, golden)
    assert told.startswith("2 frames at once take 2")
    assert engine.batch == 1
    engine._programs[SHAPE] = slow(graph, 0.1)
    assert bring_together(engine, {SHAPE: graph}, 2, golden) == ""
    assert engine.batch == 2
