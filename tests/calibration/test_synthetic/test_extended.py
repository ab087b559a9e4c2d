"""Extended anomalies: real defects pasted elsewhere, with their masks."""

import numpy as np
import pytest

from calibration.synthetic.defects import DefectRecipe, SyntheticDefects
from calibration.synthetic.extended import MOST_PASTES, Patch, moved, paste_defects, patches_of
from runtime.detector import MaskedFrame
from runtime.errors import ConfigError
from runtime.frame import Frame

SIDE = 100


@pytest.fixture
def defect():
    """Return a grey part with a red 10 x 20 rectangle, its mask exactly on it."""
    image, mask = np.full((SIDE, SIDE, 3), 90, np.uint8), np.zeros((SIDE, SIDE), bool)
    mask[30:40, 50:70] = True
    image[mask] = (255, 0, 0)
    return MaskedFrame(Frame(image, "defect"), mask)


@pytest.fixture
def patch(defect):
    """Return it at its own size."""
    return patches_of([defect], (SIDE, SIDE))[0]


def test_image_and_mask_move_together(patch):
    """Turned, scaled and shifted, the mask still lies on red pixels, but for its blurred edge."""
    for seed in range(20):
        there = moved(patch, np.random.default_rng(seed))
        red = (there.image[:, :, 0] > 170) & (there.image[:, :, 1] < 60)
        assert red[there.mask > 0].mean() > 0.85


def test_the_defect_stays_inside_the_frame(patch):
    """Between a quarter and 2.25 times its area is still there after every move: nothing is shifted out."""
    for seed in range(40):
        area = moved(patch, np.random.default_rng(seed)).mask.sum()
        assert 0.25 * 200 * 0.85 <= area <= 2.25 * 200 * 1.15


def test_places_and_sizes_vary(patch):
    """Forty moves give many places and sizes."""
    moves = [moved(patch, np.random.default_rng(seed)).mask for seed in range(40)]
    centres = {tuple(np.argwhere(mask).mean(axis=0).round().astype(int)) for mask in moves}
    assert len(centres) > 30
    assert max(mask.sum() for mask in moves) > 2 * min(mask.sum() for mask in moves)


def test_pastes_keep_what_is_outside_their_mask(patch):
    """Outside the mask returned the frame is as it was, and the mask handed in stays within it."""
    image, mask = np.full((SIDE, SIDE, 3), 10, np.uint8), np.zeros((SIDE, SIDE), bool)
    mask[:5, :5] = True
    for seed in range(20):
        pasted, grown = paste_defects(image, mask, [patch], np.random.default_rng(seed))
        assert (grown[mask]).all()
        assert grown.sum() > mask.sum()
        assert (pasted[~grown] == 10).all()
        assert (grown & ~mask).sum() <= MOST_PASTES * 2.25 * 200 * 1.15
    assert (image == 10).all()


def test_real_defects_appear_as_they_are_now_and_then(defect):
    """With a real defect given, some draws are it, and more have it pasted; without one none is."""
    good = Frame(np.full((SIDE, SIDE, 3), 90, np.uint8), "good")
    with_real = SyntheticDefects([good], defects=[defect], recipe=DefectRecipe(clean=1.0))
    kinds = [with_real.draw(good.image, number).kind for number in range(600)]
    assert 3 <= sum(kind.startswith("real") for kind in kinds) <= 40
    assert 70 <= sum(kind.endswith("pasted") for kind in kinds) <= 180
    without = SyntheticDefects([good], recipe=DefectRecipe(clean=1.0))
    assert {without.draw(good.image, number).kind for number in range(50)} == {"clean"}


def test_a_real_defect_shows_its_pixels(defect):
    """A draw that is the real defect has its mask and its red."""
    good = Frame(np.full((SIDE, SIDE, 3), 90, np.uint8), "good")
    defects = SyntheticDefects([good], defects=[defect], recipe=DefectRecipe(clean=1.0))
    real = next(drawn for n in range(600) if (drawn := defects.draw(good.image, n)).kind == "real")
    np.testing.assert_array_equal(real.mask, defect.mask)
    assert (real.image[real.mask] == (255, 0, 0)).all()


def test_an_empty_mask_is_named(defect):
    """A defect without a pixel teaches nothing: the error names the image."""
    empty = MaskedFrame(defect.frame, np.zeros_like(defect.mask))
    with pytest.raises(ConfigError, match="defect, found it empty"):
        patches_of([empty], (SIDE, SIDE))


def test_patches_come_at_the_working_size(defect):
    """Image and mask are brought to the size asked for, the mask in whole pixels."""
    patch = patches_of([defect], (50, 200))[0]
    assert isinstance(patch, Patch)
    assert patch.image.shape == (50, 200, 3)
    assert set(np.unique(patch.mask)) == {0, 1}
    assert patch.mask.sum() == 200
