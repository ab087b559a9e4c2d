"""Real defects varied together with their masks and laid onto the part, and the recipe that asks for it."""

import numpy as np
import pytest

from calibration.synthetic import joint
from calibration.synthetic.defects import DefectRecipe, SyntheticDefects, structural_source
from calibration.synthetic.extended import Patch
from calibration.synthetic.placed import place_defect
from runtime.detector import MaskedFrame
from runtime.frame import Frame

SIDE = 64


def patch(rows=slice(4, 12), columns=slice(6, 10)):
    """Return a bright defect on a dark frame."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[rows, columns] = 1
    return Patch(np.repeat((mask * 250)[:, :, None], 3, 2), mask)


def good():
    """Return a grey frame."""
    return np.full((SIDE, SIDE, 3), 100, np.uint8)


@pytest.fixture
def _as_it_is(monkeypatch):
    """Leave defects as they are."""
    monkeypatch.setattr("calibration.synthetic.placed.vary", lambda image, mask, _rng: (image, mask))


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (48, 80)])
def test_image_and_mask_move_together(shape):
    """Through every operation frames keep their form, masks stay 0 or 1, and the defect stays under its mask."""
    mask = np.zeros(shape, np.uint8)
    mask[14:30, 20:40] = 1
    image = np.repeat((20 + mask * 200)[:, :, None], 3, 2).astype(np.uint8)
    for share, operation in joint.OPERATIONS:
        assert 0 < share <= 1
        for seed in range(5):
            varied, left = operation(image, mask, np.random.default_rng(seed))
            assert (varied.shape, varied.dtype, left.shape, left.dtype) == (image.shape, np.uint8, shape, np.uint8)
            assert set(np.unique(left)) <= {0, 1}
            if left.sum() > 50 and (left == 0).sum() > 50:
                grey = varied.mean(2)
                assert np.median(grey[left > 0]) > np.median(grey[left == 0]) + 60, operation.__name__


def test_a_defect_never_loses_its_mask():
    """Variations that move a defect out of the frame are dropped; the same generator gives the same variation."""
    corner = patch(slice(0, 3), slice(0, 3))
    for seed in range(60):
        image, mask = joint.vary(corner.image, corner.mask, np.random.default_rng(seed))
        assert mask.any()
        again = joint.vary(corner.image, corner.mask, np.random.default_rng(seed))
        np.testing.assert_array_equal(image, again[0])


@pytest.mark.usefixtures("_as_it_is")
def test_a_defect_on_the_part_stays_where_it_was():
    """More than two thirds on the part, or no part at all: pasted in place, hard, and nothing else changes."""
    part = np.zeros((SIDE, SIDE), np.float32)
    part[:11] = 1
    for foreground in (part, None):
        image, mask = place_defect(good(), [patch()], np.random.default_rng(0), foreground)
        np.testing.assert_array_equal(mask, patch().mask > 0)
        assert (image[mask] == 250).all()
        assert (image[~mask] == 100).all()


@pytest.mark.usefixtures("_as_it_is")
def test_a_defect_beside_the_part_moves_onto_it():
    """Less than that on the part: its centre lands on the part, whole, wherever the generator says."""
    part = np.zeros((SIDE, SIDE), np.float32)
    part[40:56, 30:50] = 1
    for seed in range(10):
        image, mask = place_defect(good(), [patch()], np.random.default_rng(seed), part)
        assert mask.sum() == 32
        assert (image[mask] == 250).all()
        rows, columns = np.nonzero(mask)
        assert 39 <= rows.mean() <= 56
        assert 29 <= columns.mean() <= 50


@pytest.mark.usefixtures("_as_it_is")
def test_pieces_of_a_defect_are_moved_each_by_itself():
    """Two pieces that touch only at a box's edge come out whole, both of them on the part."""
    both = np.zeros((SIDE, SIDE), np.uint8)
    both[2:6, 2:6] = both[10:14, 20:24] = 1
    two = Patch(np.repeat((both * 250)[:, :, None], 3, 2), both)
    part = np.zeros((SIDE, SIDE), np.float32)
    part[30:60, 30:60] = 1
    image, mask = place_defect(good(), [two], np.random.default_rng(1), part)
    assert 16 <= mask.sum() <= 32
    assert (image[mask] == 250).all()
    assert not mask[:26].any()


@pytest.mark.usefixtures("_as_it_is")
def test_without_room_on_the_part_it_stays():
    """A part too near the border for the defect's size leaves the defect where it was."""
    part = np.zeros((SIDE, SIDE), np.float32)
    part[SIDE - 1, SIDE - 1] = 1
    _, mask = place_defect(good(), [patch()], np.random.default_rng(0), part)
    np.testing.assert_array_equal(mask, patch().mask > 0)


def test_a_recipe_asks_for_real_and_placed_defects():
    """Shares of 1 show the real defect every time, or place it into the clean frame every time."""
    real = [MaskedFrame(Frame(patch().image, "bad"), patch().mask > 0)]
    frame = Frame(good(), "good")
    shown = SyntheticDefects([frame], defects=real, recipe=DefectRecipe(clean=1.0, real=1.0, pasted=0.0))
    placed = SyntheticDefects([frame], defects=real, recipe=DefectRecipe(clean=1.0, real=0.0, pasted=1.0, placed=True))
    for number in range(5):
        assert shown.draw(good(), number).kind == "real"
        planted = placed.draw(good(), number)
        assert planted.kind == "clean, placed"
        assert planted.mask.any()
        assert (planted.image[~planted.mask] == 100).all()


def test_structural_material_has_the_recipes_cells():
    """With one cell nothing is shuffled: the material varies across the frame as the frame does."""
    ramp = np.repeat(np.arange(SIDE, dtype=np.uint8)[None, :, None] * 4, SIDE, 0).repeat(3, 2)
    steps = {}
    for cells in (1, 16):
        found = [structural_source(ramp, np.random.default_rng(seed), cells).astype(int) for seed in range(4)]
        steps[cells] = np.mean(
            [np.abs(np.diff(each, axis=1)).mean() + np.abs(np.diff(each, axis=0)).mean() for each in found]
        )
    assert steps[16] > 2 * steps[1]
