"""Signs of life: a frozen camera and a dead engine are found, a living one of either never is."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.worker.exposure import sample_frame
from runtime.worker.lifesigns import MEMORY, CameraSigns, EngineSigns, fingerprint

RANDOM = np.random.default_rng(0)


def mark(number: int) -> bytes:
    """Return the fingerprint of the frame with this number."""
    return fingerprint(np.full((4, 4, 1), number, np.uint8))


def frozen(limit: int | None, *pixels: int) -> list[bool]:
    """Return for every frame, given as the number of its picture, whether the camera is called frozen."""
    signs = CameraSigns(limit)
    return [signs.frozen(mark(number), (1, index)) is not None for index, number in enumerate(pixels)]


def test_a_fingerprint_knows_one_grey_level():
    """Two exposures of a still scene differ by their noise; one sampled pixel by one level is enough."""
    image = RANDOM.integers(0, 255, (200, 300), dtype=np.uint8)
    sample = sample_frame(image)
    other = sample.copy()
    other[5, 7] += 1
    assert fingerprint(sample) == fingerprint(sample_frame(image.copy()))
    assert fingerprint(sample) != fingerprint(other)
    assert fingerprint(np.zeros((2, 8, 1), np.uint8)) != fingerprint(np.zeros((8, 2, 1), np.uint8))


@pytest.mark.parametrize(
    ("limit", "pixels", "expected"),
    [
        (2, (1, 2, 3, 4), "...."),
        (2, (1, 1, 2, 2, 3), ".!.!."),
        (3, (1, 1, 1, 1, 2, 2), "..!!.."),
        (2, (1, 2, 3, 1, 2, 3), "...!!!"),
        (3, (1, 2, 1, 2, 1, 2), "...!!!"),
        (None, (1, 1, 1, 1), "...."),
    ],
    ids=["alive", "one stale frame", "frozen", "three buffers in a ring", "ring, lenient", "off"],
)
def test_a_camera_that_repeats_itself(limit, pixels, expected):
    """From the limit on every repeated frame is named, also where a driver hands out its old buffers in turn."""
    assert "".join("!" if each else "." for each in frozen(limit, *pixels)) == expected


def test_memory_is_bounded():
    """Only the last frames are looked back at: a picture beyond them is new again."""
    pictures = list(range(MEMORY + 1))
    assert not any(frozen(2, *pictures, 0))
    assert frozen(2, *pictures[1:], 1)[-1]


def test_a_frame_sent_again_is_no_repeat():
    """The same frame, named the same, may come twice: a camera sends again what it got no receipt for."""
    signs = CameraSigns(2)
    assert signs.frozen(mark(1), (7, 3)) is None
    assert signs.frozen(mark(1), (7, 3)) is None
    assert "frame 3" in signs.frozen(mark(1), (7, 4))


def test_the_same_number_in_another_session_is_another_frame():
    """A camera that was restarted counts from 0 again: its frozen picture is found all the same."""
    signs = CameraSigns(2)
    assert signs.frozen(mark(1), (7, 0)) is None
    assert signs.frozen(mark(1), (8, 0)) is not None


def anomaly_map(seed: int) -> np.ndarray:
    """Return a float32 map [8, 8]."""
    return np.random.default_rng(seed).random((8, 8), dtype=np.float32)


def test_a_living_engine():
    """Another map for another frame, and the same map for the same frame, are what a living engine gives."""
    signs = EngineSigns()
    assert [signs.dead(mark(frame), anomaly_map(frame)) for frame in (1, 2, 2, 1, 1)] == [None] * 5


@pytest.mark.parametrize("value", [0.0, -0.0, 0.25, 1e30])
def test_a_map_of_one_value(value):
    """A map of zeros, or of any one value, is a dead engine's, on the first frame already."""
    found = EngineSigns().dead(mark(1), np.full((8, 8), value, np.float32))
    assert "everywhere" in found


def test_a_map_with_one_other_value_is_alive():
    """One place that differs is enough: how much is the detector's business."""
    one = np.zeros((8, 8), np.float32)
    one[3, 3] = 1e-30
    assert EngineSigns().dead(mark(1), one) is None


def test_the_map_of_the_frame_before():
    """Another frame with the last map, bit for bit, is named; one bit away it is not."""
    signs, one = EngineSigns(), anomaly_map(1)
    assert signs.dead(mark(1), one) is None
    assert "bit for bit" in signs.dead(mark(2), one.copy())
    assert "bit for bit" in signs.dead(mark(3), one)
    one[0, 0] = np.nextafter(one[0, 0], np.float32(2))
    assert signs.dead(mark(4), one) is None


def test_an_engine_that_writes_into_one_buffer():
    """An engine may answer in the same memory every time: its maps are still told apart."""
    signs, buffer = EngineSigns(), anomaly_map(1)
    assert signs.dead(mark(1), buffer) is None
    buffer[:] = anomaly_map(2)
    assert signs.dead(mark(2), buffer) is None


def test_a_map_of_one_place():
    """A detector that answers with a single value cannot vary from place to place; only repetition gives it away."""
    signs = EngineSigns()
    assert signs.dead(mark(1), np.ones((1, 1), np.float32)) is None
    assert signs.dead(mark(2), np.zeros((1, 1), np.float32)) is None
    assert "bit for bit" in signs.dead(mark(3), np.zeros((1, 1), np.float32))
