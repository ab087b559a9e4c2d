"""The way of frames to the device and of answers back: fixed addresses there, memory of their own here."""

import numpy as np
import pytest
import torch

from runtime.engines.engine import Engine
from runtime.engines.staging import MOST_SHAPES, Staging

CPU = torch.device("cpu")


def frame(seed, shape=(1, 6, 8, 3)):
    """Return a frame of noise."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_frames_of_a_shape_lie_at_one_address():
    """Whatever frame is uploaded, its shape decides where it lies: a captured launch finds the next one there."""
    staging = Staging(CPU)
    places = set()
    for seed in range(3):
        there = staging.upload(frame(seed))
        assert torch.equal(there, frame(seed))
        places.add(there.data_ptr())
    assert len(places) == 1
    assert staging.upload(frame(0, (1, 4, 4, 1))).data_ptr() not in places


def test_answers_are_copies():
    """An answer that was downloaded does not change with the next one, and two of one shape do not share memory."""
    staging = Staging(CPU)
    one, two = staging.download(torch.ones(2), torch.zeros(2))
    staging.download(torch.full((2,), 5.0), torch.full((2,), 6.0))
    assert (one.tolist(), two.tolist()) == ([1.0, 1.0], [0.0, 0.0])


def test_shapes_do_not_pile_up():
    """Buffers of a few shapes are kept, whatever a folder of mixed sizes brings."""
    staging = Staging(CPU)
    for side in range(1, 4 * MOST_SHAPES):
        assert staging.upload(frame(0, (1, side, 4, 3))).shape[1] == side
        assert len(staging._frames) <= MOST_SHAPES


def test_an_engine_that_stages_answers_as_one_that_does_not(spot):
    """Frames and answers that go through the staging buffers are the very same."""
    plain, staged = (Engine(spot.Spot(), spot.content_of(2), threads=1) for _ in range(2))
    staged._staging = Staging(CPU)
    for seed in range(3):
        for shape in ((32, 40, 3), (24, 24, 1)):
            expected, found = (each.infer(spot.image(seed, shape)) for each in (plain, staged))
            np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
            assert found.score == expected.score


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_answer_is_the_cpus(spot):
    """Page-locked on the way there and back: map and score are those of the CPU, to rounding."""
    content = spot.content_of(2)
    gpu, cpu = Engine(spot.Spot(), content, device="cuda"), Engine(spot.Spot(), content)
    for seed in range(3):
        found, expected = (each.infer(spot.image(seed)) for each in (gpu, cpu))
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-3, atol=1e-4)
