"""Masks at the size of the anomaly map, with Pillow as the oracle."""

import numpy as np
import pytest
from PIL import Image

from calibration.masks import resize_mask
from runtime.errors import EdgeadError


def random_mask(rng):
    """Draw a noisy mask or a rectangle, of any shape up to 90 pixels."""
    height, width = rng.integers(1, 91, 2)
    if rng.random() < 0.5:
        return rng.random((height, width)) < rng.choice([0.1, 0.5, 0.9])
    mask = np.zeros((height, width), dtype=bool)
    top, left = rng.integers(0, height), rng.integers(0, width)
    mask[top : top + rng.integers(1, 60), left : left + rng.integers(1, 60)] = True
    return mask


def test_resize_agrees_with_pillow_on_every_pixel_it_decides():
    """Over random shapes, the cut falls as on Pillow's antialiased 8-bit resize, save where that says 127 or 128."""
    rng = np.random.default_rng(11)
    compared = 0
    for _ in range(200):
        mask, (rows, columns) = random_mask(rng), rng.integers(1, 91, 2)
        image = Image.fromarray(mask.astype(np.uint8) * 255)
        values = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))
        decided = ~np.isin(values, (127, 128))
        if (values >= 128).any():
            compared += 1
            np.testing.assert_array_equal(resize_mask(mask, (rows, columns))[decided], (values >= 128)[decided])
    assert compared > 100


def test_half_covered_pixels_count_as_defect():
    """A mask whose edge halves the target pixels keeps them: one half is enough, whatever the rounding."""
    mask = np.zeros((6, 6), dtype=bool)
    mask[:, 3:] = True
    assert resize_mask(mask, (2, 3)).tolist() == [[False, True, True]] * 2
    assert resize_mask(mask.T, (3, 2)).T.tolist() == [[False, True, True]] * 2


def test_a_lone_pixel_never_vanishes():
    """One pixel in two thousand squared survives as the single best covered pixel, at its place."""
    mask = np.zeros((2000, 2000), dtype=bool)
    mask[1234, 77] = True
    rows, columns = np.nonzero(resize_mask(mask, (256, 256)))
    assert (rows.tolist(), columns.tolist()) == ([int(1234.5 * 256 / 2000)], [int(77.5 * 256 / 2000)])


def test_equal_coverage_keeps_all_its_pixels():
    """A lone pixel exactly between two target pixels marks both."""
    mask = np.zeros((1, 9), dtype=bool)
    mask[0, 4] = True
    assert resize_mask(mask, (1, 2)).tolist() == [[True, True]]


def test_same_size_and_empty_masks_are_unchanged():
    """Nothing moves at the mask's own size, and empty stays empty."""
    mask = np.random.default_rng(3).random((7, 5)) < 0.3
    np.testing.assert_array_equal(resize_mask(mask, (7, 5)), mask)
    assert not resize_mask(np.zeros((7, 5), dtype=bool), (3, 9)).any()


@pytest.mark.parametrize(
    ("mask", "shape"),
    [(np.zeros((2, 2), np.uint8), (1, 1)), (np.zeros((1, 2, 2), bool), (1, 1)), (np.zeros((2, 2), bool), (0, 1))],
)
def test_unfit_masks_are_refused(mask, shape):
    """A mask that is not bool [H, W], or a target without pixels, is an error."""
    with pytest.raises(EdgeadError, match="expected a bool mask"):
        resize_mask(mask, shape)
