"""Perlin noise and its masks: the numbers of the CPR specification (T33, T34)."""

import numpy as np
import pytest

from calibration.synthetic.perlin import CUT, LEAST_AREA, draw_cells, keep_on_part, perlin, perlin_mask


def test_noise_is_zero_at_every_node():
    """T33: at 640 x 640 with (4, 8) cells the noise is exactly 0 every 160 rows and 80 columns."""
    noise = perlin((640, 640), (4, 8), np.random.default_rng(1))
    assert noise.dtype == np.float32
    assert (noise[::160, ::80] == 0).all()
    assert np.abs(noise).max() <= 1.0 + 1e-6
    assert (noise > CUT).any()


def test_noise_is_continuous_across_cells():
    """Neighbouring pixels of two cells differ no more than neighbours inside one."""
    noise = perlin((320, 320), (4, 4), np.random.default_rng(2))
    steps = np.abs(np.diff(noise, axis=0))
    assert steps[79::80].max() <= steps.max() <= 0.05


def test_only_powers_of_two_occur_as_cells():
    """T33: cell counts are 1, 2, 4, 8, 16 and 32, and each occurs."""
    rng = np.random.default_rng(3)
    drawn = {count for _ in range(300) for count in draw_cells(rng)}
    assert drawn == {1, 2, 4, 8, 16, 32}


@pytest.mark.parametrize("shape", [(320, 320), (200, 333), (45, 64)])
def test_masks_have_the_shape_of_the_frame(shape):
    """A frame of any shape gets a mask of its own shape, and the same seed the same mask."""
    first, again = (perlin_mask(shape, np.random.default_rng(4)) for _ in range(2))
    assert first.shape == shape
    np.testing.assert_array_equal(first, again)


def test_small_components_go_and_diagonal_ones_hang_together():
    """T34: what is kept are whole 8-connected components of at least the least area."""
    mask = np.zeros((40, 40), bool)
    mask[2:5, 2:5] = True
    mask[5:8, 5:8] = True  # touches the first square at a corner: one component of 18 px
    mask[20:22, 20:22] = True
    kept = keep_on_part(mask, None, 17)
    assert kept[2:8, 2:8].sum() == 18
    assert kept.sum() == 18


def test_a_component_is_kept_whole_where_it_touches_the_part():
    """T34: a component reaching the part keeps its pixels on the background, one beside the part goes."""
    mask = np.zeros((40, 40), bool)
    mask[5, 5:30] = True
    mask[20, 5:15] = True
    foreground = np.zeros((40, 40), np.float32)
    foreground[:, 20:] = 0.6
    kept = keep_on_part(mask, foreground, 1)
    np.testing.assert_array_equal(kept[5], mask[5])
    assert not kept[20].any()


def test_part_begins_above_one_half():
    """A foreground of exactly 0.5 is no part."""
    mask = np.ones((10, 10), bool)
    assert not keep_on_part(mask, np.full((10, 10), 0.5, np.float32), 1).any()


def test_least_area_is_the_papers():
    """409.6 px at 640 x 640."""
    np.testing.assert_allclose(LEAST_AREA * 640**2, 409.6)
