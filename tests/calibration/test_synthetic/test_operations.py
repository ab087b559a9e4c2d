"""The ten operations: each does what the specification's table says, on uint8 RGB."""

import numpy as np
import pytest

from calibration.synthetic import operations
from calibration.synthetic.operations import ALL, PHOTOMETRIC, distort


@pytest.fixture
def image():
    """Return a colour picture with structure."""
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("operation", ALL, ids=lambda each: each.__name__)
def test_every_operation_gives_a_picture_of_the_same_shape(operation, image):
    """uint8 RGB comes out, the input is left alone, and the same seed gives the same picture."""
    before = image.copy()
    first, again = (operation(image, np.random.default_rng(5)) for _ in range(2))
    assert (first.dtype, first.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("operation", ALL, ids=lambda each: each.__name__)
def test_every_operation_changes_a_picture_sooner_or_later(operation, image):
    """None of the ten is the identity for every draw."""
    assert any((operation(image, np.random.default_rng(seed)) != image).any() for seed in range(8))


def test_there_are_ten_and_only_rotation_moves_pixels():
    """Nine are pointwise or nearly so; pasted defects use those."""
    assert len(ALL) == 10
    assert set(ALL) - set(PHOTOMETRIC) == {operations.rotate}


def test_invert_twice_is_nothing(image):
    """255 - v, exactly."""
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(operations.invert(operations.invert(image, rng), rng), image)
    assert operations.invert(np.full((1, 1, 3), 3, np.uint8), rng)[0, 0, 0] == 252


def test_posterise_keeps_the_top_bits():
    """With n bits kept there are at most 2^n levels, and none is above its original."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    seen = set()
    for seed in range(60):
        kept = operations.posterise(levels, np.random.default_rng(seed))
        assert (kept <= levels).all()
        seen.add(np.unique(kept).size)
    assert seen == {2**bits for bits in range(1, 9)}


def test_solarise_is_left_out_half_of_the_time(image):
    """About one half of the draws return the picture as it is."""
    untouched = sum((operations.solarise(image, np.random.default_rng(seed)) == image).all() for seed in range(200))
    assert 70 < untouched < 130


def test_gamma_keeps_black_and_white():
    """0 and 255 are fixed points of every power."""
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_array_equal(operations.gamma(ends, np.random.default_rng(1)), ends)


def test_auto_contrast_spreads_over_the_whole_range():
    """Levels 100 .. 139 come out as 0 .. 255, whatever share of the ends is cut."""
    grey = np.repeat(np.tile(np.arange(100, 140, dtype=np.uint8), 10).reshape(20, 20)[:, :, None], 3, axis=2)
    stretched = operations.auto_contrast(grey, np.random.default_rng(2))
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_auto_contrast_leaves_one_level_alone():
    """A picture of one level has nothing to stretch."""
    flat = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(operations.auto_contrast(flat, np.random.default_rng(3)), flat)


def test_three_different_operations_are_drawn(image):
    """Distorting applies as many operations as asked for, none twice."""
    applied = []

    def recorder(number):
        return lambda picture, _rng: applied.append(number) or picture

    distort(image, np.random.default_rng(4), [recorder(number) for number in range(10)], 3)
    assert len(applied) == len(set(applied)) == 3
