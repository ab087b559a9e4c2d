"""What the heads are trained to: the specification's numbers (T28 to T32) and the loss's edges."""

import numpy as np
import pytest
import torch

from plugins.cpr.batches import pair_loss
from plugins.cpr.losses import like_loss, positions, read, remote_weights, unlike_loss
from plugins.cpr.pairs import (
    GUARD_PX,
    Window,
    draw_pairs,
    guarded_mask,
    is_remote,
    sampling_weights,
    sharpened,
)

SIDE = 64
WHOLE = Window(0, 0, SIDE, SIDE)


def one(value):
    """Return a batch of one pair."""
    return torch.tensor([[value]])


@pytest.mark.parametrize(
    ("loss", "cosine", "weight", "expected"),
    [
        (like_loss, 0.5, 1.0, 0.027),
        (unlike_loss, 0.1, 1.0, 0.027),
        (unlike_loss, 0.1, 2.0, 0.216),
        (like_loss, 0.9, 1.0, 0.0),
        (unlike_loss, -0.3, 1.0, 0.0),
    ],
)
def test_loss_of_one_pair(loss, cosine, weight, expected):
    """T29: the weight is inside the cube, and margins are 0.8 and -0.2."""
    assert float(loss(one(cosine), one(weight))) == pytest.approx(expected, abs=1e-6)


def test_padded_pairs_change_no_mean():
    """A pair of weight 0 counts in neither the sum nor the number."""
    cosines, weights = torch.tensor([[0.5, -1.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert float(like_loss(cosines, weights)) == pytest.approx(0.027, abs=1e-6)


def test_remote_weights():
    """T30: (1, 4, 9, 2) gives (0.25, 1, 2.25, 0.5); two padded pairs change nothing."""
    expected = torch.tensor([[0.25, 1.0, 2.25, 0.5]])
    squared = torch.tensor([[1.0, 4.0, 9.0, 2.0]])
    torch.testing.assert_close(remote_weights(squared, torch.ones(1, 4)), expected)
    padded = remote_weights(torch.cat((squared, torch.full((1, 2), 7.0)), 1), torch.tensor([[1.0, 1, 1, 1, 0, 0]]))
    torch.testing.assert_close(padded[:, :4], expected)
    assert float(padded.sum()) == pytest.approx(4.0)
    assert (padded[:, 4:] == 0).all()


def test_identical_maps_give_finite_weights():
    """Where frame and reference do not differ at all the weights are 0, not NaN."""
    assert (remote_weights(torch.zeros(2, 5), torch.ones(2, 5)) == 0).all()


def test_positions():
    """T31: pixels 0, 1, 318, 319 of 320 lie at -0.5, -0.24922, 79.24922, 79.5 on a grid of 80."""
    found = positions(torch.tensor([0.0, 1.0, 318.0, 319.0]), 320, 80)
    torch.testing.assert_close(found, torch.tensor([-0.5, -0.24922, 79.24922, 79.5]), atol=1e-5, rtol=0)


def test_reading_interpolates_and_sees_zero_outside():
    """Whole positions give the pixel, halves the mean of neighbours, and half of a border vector is left at -0.5."""
    maps = torch.arange(12.0).view(1, 1, 3, 4) + 1
    at = torch.tensor([[[1.0, 2.0], [0.5, 0.0], [-0.5, 0.0], [9.0, 9.0]]])
    torch.testing.assert_close(read(maps, at)[0, :, 0], torch.tensor([10.0, 1.5, 0.5, 0.0]))


def test_zero_padding_leaves_cosines_alone():
    """A vector read half beyond the border keeps its direction."""
    maps = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    inside, outside = read(maps, torch.tensor([[[0.0, 0.0], [-0.5, -0.5]]]))[0]
    assert float(torch.cosine_similarity(inside, outside, dim=0)) == pytest.approx(1.0, abs=1e-6)


def test_remote_is_strict():
    """T28: an offset of (4, 4) is exactly the distance and refused, (4, 5) is accepted."""
    there = np.zeros((2, 2))
    np.testing.assert_array_equal(is_remote(np.array([[4, 4], [4, 5]]), there), [False, True])


def test_sharpening():
    """T27: the five values, and never below 0.0066."""
    found = sharpened(np.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    np.testing.assert_allclose(found, [0.006693, 0.075858, 0.5, 0.924142, 0.993307], atol=1e-6)


def test_sampling_weights_take_the_larger_of_the_two():
    """A part seen in either the frame or the reference is drawn from, at the frame's size."""
    left, right = np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32)
    left[:, :6], right[:, 14:] = 1.0, 1.0
    weights = sampling_weights(left, right, 80)
    assert weights.shape == (80, 80)
    assert weights[:, :8].min() > 0.9
    assert weights[:, -8:].min() > 0.9
    assert weights[:, 40].max() < 0.05


@pytest.fixture
def mask():
    """Return a mask with one square defect."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[20:30, 20:30] = True
    return mask


def drawn(mask, window=WHOLE, *, count=50, remote=True, weights=None, seed=0):
    """Return the three kinds of pairs."""
    rng = np.random.default_rng(seed)
    return draw_pairs(mask, guarded_mask(mask), weights, window, rng, count=count, remote=remote)


def test_each_kind_lies_where_it_belongs(mask):
    """Normal pairs keep off the defect and its guard band, anomalous ones lie on it, remote ones are apart."""
    normal, remote, broken = drawn(mask)
    guard = guarded_mask(mask)
    assert guard[20 - GUARD_PX, 25]
    assert not guard[19 - GUARD_PX, 25]
    for pixels, truth in ((normal.frame, ~guard), (broken.frame, mask)):
        x, y = pixels.astype(int).T
        assert truth[y, x].all()
    np.testing.assert_array_equal(normal.frame, normal.reference)
    np.testing.assert_array_equal(broken.frame, broken.reference)
    used = remote.weights > 0
    assert used.sum() > 40
    assert is_remote(remote.frame[used], remote.reference[used]).all()


def test_pixels_are_drawn_without_replacement(mask):
    """No pixel is a normal or anomalous pair twice, and a small defect gives as many pairs as it has pixels."""
    normal, _, broken = drawn(mask, count=300)
    assert len({tuple(pixel) for pixel in normal.frame[normal.weights > 0]}) == 300
    assert (int(broken.weights.sum()), len({tuple(pixel) for pixel in broken.frame[:100]})) == (100, 100)
    assert (broken.frame[100:] == 0).all()


def test_weights_draw_in_proportion():
    """Pixels of weight 1 are drawn about nine times as often as those of weight 1/9."""
    weights = np.full((SIDE, SIDE), 1 / 9, np.float16)
    weights[:, : SIDE // 2] = 1.0
    empty = np.zeros((SIDE, SIDE), bool)
    left = [(drawn(empty, count=20, weights=weights, seed=n)[0].frame[:, 0] < SIDE // 2).mean() for n in range(100)]
    assert np.mean(left) == pytest.approx(0.9, abs=0.02)


def test_a_window_bounds_every_pair(mask):
    """All pixels of all kinds lie inside the window."""
    window = Window(16, 24, 32, 16)
    for kind in drawn(mask, window):
        used = kind.weights > 0
        assert used.any()
        for pixels in (kind.frame[used], kind.reference[used]):
            assert ((pixels >= (16, 24)) & (pixels < (48, 40))).all()


def test_surfaces_and_clean_frames_have_finite_losses(mask):
    """T32: without remote pairs, or without a defect, those weights are all 0 and the loss is finite."""
    for pairs, gone in ((drawn(mask, remote=False), 1), (drawn(np.zeros_like(mask)), 2)):
        assert (pairs[gone].weights == 0).all()
        weights = torch.from_numpy(np.concatenate([kind.weights for kind in pairs]))[None]
        cosines = torch.zeros(1, *weights.shape)
        assert torch.isfinite(pair_loss(cosines, weights, torch.ones_like(weights), like=1.0))


def test_with_several_references_the_nearest_decides():
    """A normal pixel need be like one reference only; an anomalous one like any of them costs."""
    like, unlike = torch.tensor([[[0.9, 0.0, -0.5]]]), torch.tensor([[[-0.5, 0.0, 0.9]]])
    both, weights, apart = torch.cat((like, unlike)), torch.tensor([[1.0, 0.0, 1.0]]), torch.ones(1, 3)
    alone = float(pair_loss(like, weights, apart, like=1.0))
    assert alone == pytest.approx(0.0, abs=1e-7)
    assert float(pair_loss(both, weights, apart, like=1.0)) == pytest.approx(1.1**3, abs=1e-5)


def test_normal_pairs_may_weigh_more():
    """A weight of two inside the power makes a normal pair cost eight times as much, and an anomalous one no more."""
    cosines, apart = torch.tensor([[[0.3, 0.0, 0.8]]]), torch.ones(1, 3)
    for like, cost in ((1.0, 0.5**3), (2.0, 1.0**3)):
        assert float(pair_loss(cosines, torch.tensor([[1.0, 0.0, 1.0]]), apart, like=like)) == pytest.approx(cost + 1.0)
