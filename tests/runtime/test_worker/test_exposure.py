"""The exposure check: frames that show nothing are named with their figures, frames of real parts pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.images import read_image
from runtime.station.config import Exposure
from runtime.worker.exposure import BLACK, SATURATED, find_fault, sample_frame

LIMITS = Exposure().model_dump()
RANDOM = np.random.default_rng(0)


def noise(low: int, high: int, shape: tuple[int, ...] = (300, 400)) -> np.ndarray:
    """Return an image of evenly spread values, ``low`` to ``high`` included."""
    return RANDOM.integers(low, high + 1, shape, dtype=np.uint8)


def fault(image: np.ndarray, **limits: float) -> str | None:
    """Return what is wrong with an image under the defaults, or other limits."""
    return find_fault(sample_frame(image), **(LIMITS | limits))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (64, 64), (65, 200), (320, 320, 3), (2048, 2448), (5, 9000, 3)])
def test_a_sample_is_small_spread_and_a_copy(shape):
    """At most 32 x 32 pixels, evenly from the whole frame, that stay when the slot is used again."""
    image = noise(0, 255, shape)
    sample = sample_frame(image)
    assert sample.ndim == 3
    assert sample.shape[2] == (shape[2] if len(shape) == 3 else 1)
    for side, whole in zip(sample.shape[:2], shape[:2], strict=True):
        assert side == whole or 16 <= side <= 32 < whole
    before = sample.copy()
    image[:] = 0
    assert (sample == before).all()


BROKEN = {
    "white": (np.full((300, 400), 255, np.uint8), "saturated"),
    "nearly white": (noise(SATURATED, 255), "saturated"),
    "white colour": (np.full((300, 400, 3), 252, np.uint8), "saturated"),
    "black": (np.zeros((300, 400), np.uint8), "black"),
    "a lens cap": (noise(0, BLACK), "black"),
    "a lens cap on a camera that rests at 16": (noise(14, 18), "flat"),
    "grey": (np.full((300, 400), 128, np.uint8), "flat"),
    "one colour": (np.zeros((300, 400, 3), np.uint8) + np.array([200, 100, 20], np.uint8), "flat"),
    "one pixel": (np.full((1, 1), 128, np.uint8), "flat"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_frame_that_shows_nothing_is_named(name):
    """Over-exposed, black and flat frames are told apart, each with limit, figure and what to look at."""
    image, word = BROKEN[name]
    found = fault(image)
    assert found.startswith(f"the frame is {word}: expected ")
    assert "found" in found
    assert found.endswith("check lamp, lens and exposure time")


def test_a_few_hot_pixels_are_no_contrast():
    """A flat frame stays flat with bright and dark pixels in one place of two hundred."""
    image = np.full((300, 400), 90, np.uint8)
    image.reshape(-1)[::200] = 255
    image.reshape(-1)[100::200] = 0
    assert "flat" in fault(image)


def test_the_limits_themselves_pass():
    """Each limit is the last value that passes, in every one of the three figures."""
    half = np.zeros((64, 64), np.uint8)
    half[:32] = 255
    assert fault(half, saturated=0.5, black=0.5) is None
    assert "50.0%" in fault(half, saturated=0.49)
    assert "50.0%" in fault(half, black=0.49)
    step = np.where(half > 0, 108, 100).astype(np.uint8)
    assert fault(step, contrast=8) is None
    assert "at least 9 grey levels, found 8" in fault(step, contrast=9)


def test_contrast_is_that_of_the_best_channel():
    """A part that only one colour shows is shown."""
    image = np.zeros((64, 64, 3), np.uint8) + np.array([120, 40, 90], np.uint8)
    image[20:40, :, 1] = 80
    assert fault(image) is None


@pytest.mark.parametrize("image", [noise(0, 60), noise(180, 255), noise(40, 60, (200, 300, 3))])
def test_a_dark_bright_or_pale_frame_passes(image):
    """What is dark, bright or pale, and still shows something, is left to the detector."""
    assert fault(image) is None


@pytest.mark.data
@pytest.mark.parametrize("name", ["mtd", "elpv_mono", "cookies", "dtd_small"])
def test_no_real_picture_is_refused(data_folder, name):
    """The defaults pass every picture of every real set, with at least four times the contrast they ask for."""
    folder: Path = data_folder / name
    paths = [path for path in sorted(folder.rglob("*.*")) if "ground_truth" not in path.parts]
    images = [read_image(path) for path in paths if path.suffix in {".png", ".jpg"}]
    assert len(images) > 50
    assert [fault(image, contrast=4 * LIMITS["contrast"]) for image in images] == [None] * len(images)
