"""Damage that no recipe draws: where it lies, that it can be seen, and that a seed says everything."""

import cv2
import numpy as np
import pytest

from calibration.synthetic.defects import LEAST_PX
from calibration.synthetic.unseen import UNSEEN_KINDS, VISIBLE, draw_unseen

SIDE = 160


@pytest.fixture(scope="module")
def grain():
    """Return two colour frames with smooth structure, uint8 [160, 160, 3]."""
    rng = np.random.default_rng(0)
    return [cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), (9, 9), 2) for _ in range(2)]


def drawn(kind, grain, number, **given):
    """Return damage ``number`` of a kind."""
    return draw_unseen(grain[0], grain[1], kind, np.random.default_rng(number), **given)


@pytest.mark.parametrize("kind", UNSEEN_KINDS)
def test_damage_can_be_seen_and_lies_in_its_mask(kind, grain):
    """Inside the mask the frame differs; outside hardly, if edges are soft; the frame handed in stays as it was."""
    before = grain[0].copy()
    for number in range(12):
        planted = drawn(kind, grain, number)
        changed = np.abs(planted.image.astype(int) - grain[0])
        assert (planted.image.shape, planted.image.dtype, planted.kind) == ((SIDE, SIDE, 3), np.uint8, kind)
        assert planted.mask.sum() >= LEAST_PX
        assert changed[planted.mask].mean() >= VISIBLE
        if kind not in ("shade", "warp"):
            assert not changed[~planted.mask].any()
        assert changed[~planted.mask].mean() < changed[planted.mask].mean()
    np.testing.assert_array_equal(grain[0], before)


@pytest.mark.parametrize("kind", UNSEEN_KINDS)
def test_damage_lies_on_the_part(kind, grain):
    """With a foreground nothing else is touched, neither in the frame nor in the mask."""
    foreground = np.zeros((SIDE, SIDE), np.float32)
    foreground[:, SIDE // 2 :] = 1.0
    for number in range(6):
        planted = drawn(kind, grain, number, foreground=foreground)
        assert planted.mask.any()
        assert not planted.mask[:, : SIDE // 2].any()
        np.testing.assert_array_equal(planted.image[:, : SIDE // 2], grain[0][:, : SIDE // 2])


@pytest.mark.parametrize("kind", UNSEEN_KINDS)
def test_the_same_seed_draws_the_same_and_grey_stays_grey(kind, grain):
    """A generator in the same state gives the same damage, another does not; a grey frame gets grey damage."""
    first, again, other = (drawn(kind, grain, number) for number in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).any()
    grey = [np.repeat(each[:, :, :1], 3, axis=2) for each in grain]
    image = drawn(kind, grey, 3).image
    np.testing.assert_array_equal(image, np.repeat(image[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("kind", ["shade", "warp"])
def test_soft_edges_stay_soft_on_a_part(kind, grain):
    """A foreground that is everywhere changes nothing: what lies beside the mask fades as without one."""
    foreground = np.ones((SIDE, SIDE), np.float32)
    np.testing.assert_array_equal(drawn(kind, grain, 3, foreground=foreground).image, drawn(kind, grain, 3).image)


@pytest.mark.parametrize("shape", [(32, 32), (40, 40), (48, 64), (64, 33), (300, 32)])
def test_frames_of_any_size_can_be_damaged(shape):
    """Frames as small as detectors take, and narrow ones, textured or even: every kind gives a frame and a mask."""
    rng = np.random.default_rng(1)
    for image in (rng.integers(0, 256, (*shape, 3), dtype=np.uint8), np.full((*shape, 3), 90, np.uint8)):
        other = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        for number, kind in enumerate([*UNSEEN_KINDS] * 12):
            planted = draw_unseen(image, other, kind, np.random.default_rng(number))
            assert planted.image.shape == image.shape
            assert planted.mask.shape == shape


@pytest.mark.parametrize("kind", ["blur", "warp"])
def test_where_nothing_can_be_seen_nothing_is_damaged(kind, grain):
    """On an even frame, or with no part in it, the frame comes back as a copy, and the mask is empty."""
    even = np.full_like(grain[0], 128)
    nowhere = np.zeros((SIDE, SIDE), np.float32)
    for image, foreground in ((even, None), (grain[0], nowhere)):
        planted = draw_unseen(image, image, kind, np.random.default_rng(0), foreground)
        np.testing.assert_array_equal(planted.image, image)
        assert planted.image is not image
        assert not planted.mask.any()
