"""Where MSPBA's patches lie, and how their scores become a map: the specification's examples, and its definition."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from plugins.mspba.crops import context_of, draw_corners
from plugins.mspba.geometry import far_offset, jitter, pair_offset, pair_offsets
from plugins.mspba.graph import Spread
from plugins.mspba.resize import BicubicResize
from plugins.mspba.settings import MspbaSettings
from plugins.mspba.views import _matching

MINIMA = [
    (48, 0), (42, 24), (24, 42), (0, 48), (-24, 42), (-42, 24),
    (-48, 0), (-42, -24), (-24, -42), (0, -48), (24, -42), (42, -24),
]  # fmt: skip
FAR = [
    (96, 48), (90, 72), (72, 90), (48, 96), (-72, 90), (-90, 72),
    (-96, 48), (-90, -72), (-72, -90), (48, -96), (72, -90), (90, -72),
]  # fmt: skip


def spread(scores, size, side, step):
    """Return the plugin's map of [grid, grid] scores."""
    flat = torch.tensor(scores, dtype=torch.float32).reshape(1, -1)
    return Spread(size, side, step)(flat)[0].numpy()


def test_grids_and_memory_are_the_papers():
    """M-1, M-13: VGG's grids are 13, 57 and 61 patches a side, which N references fill a memory with."""
    grids = [scale.grid(256) for scale in MspbaSettings(backbone="vgg16").scales]
    assert grids == [13, 57, 61]
    assert [60 * grid**2 for grid in grids] == [10_140, 194_940, 223_260]
    assert [209 * grid**2 for grid in grids] == [35_321, 679_041, 777_689]


@pytest.mark.parametrize("backbone", ["vgg16", "efficientnet_lite0"])
def test_every_pixel_is_covered_and_constants_stay(backbone):
    """M-1, M-3: constant scores give a constant map, without a hole."""
    for scale in MspbaSettings(backbone=backbone).scales:
        found = spread(np.full((scale.grid(256),) * 2, 2.5), 256, scale.side, scale.step)
        np.testing.assert_allclose(found, 2.5, rtol=1e-6)


def test_spreading_examples():
    """M-3, M-4: one score of nine in the middle, and a frame whose last row and column no patch covers."""
    found = spread([[0, 0, 0], [0, 9, 0], [0, 0, 0]], 8, 4, 2)
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 2.25
    np.testing.assert_allclose(found, expected, atol=1e-6)
    found = spread([[1, 2], [3, 4]], 7, 4, 2)
    np.testing.assert_allclose(found[0], [1, 1, 1.5, 1.5, 2, 2, 0], atol=1e-6)
    np.testing.assert_allclose(found[2], [2, 2, 2.5, 2.5, 3, 3, 0], atol=1e-6)
    assert not found[6].any()


@pytest.mark.parametrize(("size", "side", "step"), [(64, 16, 8), (64, 32, 4), (61, 16, 4)])
def test_spreading_is_that_of_the_definition(mspba, size, side, step):
    """Two products give the map that adding patch by patch gives."""
    grid = 1 + (size - side) // step
    scores = np.random.default_rng(0).random((grid, grid))
    np.testing.assert_allclose(spread(scores, size, side, step), mspba.spread(scores, size, side, step), atol=1e-6)


def test_directions_are_those_of_the_table(mspba):
    """M-6: the least offsets of 64-pixel patches, near and far, and every other one by definition."""
    least = [pair_offset(64, direction, 0, 0) for direction in range(12)]
    assert least == MINIMA
    assert [far_offset(64, each) for each in least] == FAR
    for side in (64, 32, 16):
        for direction in range(12):
            for down, across in ((0, 0), (side // 4 - 1, 0), (1, side // 4 - 1)):
                assert pair_offset(side, direction, down, across) == mspba.offset(side, direction, down, across)
        assert len(pair_offsets(side)) == 12 * (side // 4) ** 2


def test_jitter_is_small_and_never_nothing():
    """M-7: each component within 4, 2 and 1 pixels, all values drawn; a patch of 8 still moves by a pixel."""
    rng = np.random.default_rng(0)
    for side, most in ((64, 4), (32, 2), (16, 1), (8, 1)):
        drawn = Counter(jitter(side, rng) for _ in range(2000))
        assert (0, 0) not in drawn
        assert {abs(each) for pair in drawn for each in pair} == set(range(most + 1))
        assert len(drawn) == (2 * most + 1) ** 2 - 1


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("side", [64, 32, 16])
def test_corners_stay_inside_and_labels_are_true_unless_clipped(side, clips):
    """M-7: corners lie in the frame; redrawn, a pair's offset is one of its direction, clipped, it sometimes is not."""
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        direction, corners = draw_corners(side, 256, rng, clips=clips)
        assert all(0 <= each <= 256 - side for corner in corners for each in corner)
        first, second, anchor, near, far = (np.array(each) for each in corners)
        offsets = pair_offsets(side)
        true = (offsets == (direction, *(second - first))).all(1).any()
        wrong += not true
        assert abs(near - anchor).max() <= side // 16
        assert clips or (near != anchor).any()
        assert clips or (abs(far - anchor) >= 3 * side // 4).all()
    assert bool(wrong) is clips


@pytest.mark.parametrize("side", [64, 32, 16])
def test_views_know_offsets_of_every_direction(side):
    """Windows shifted alike hold pairs of all twelve directions for large patches, and only true offsets ever."""
    stride = {64: 16, 32: 16, 16: 8}[side]
    every = set(map(tuple, pair_offsets(side).tolist()))
    seen = set()
    for down in range(stride):
        for across in range(stride):
            found = _matching(side, stride, down, across)
            assert all((dy - down) % stride == 0 == (dx - across) % stride for _, dy, dx in found)
            seen |= set(map(tuple, found.tolist()))
    assert seen == every
    if side == 64:
        assert {direction for direction, _, _ in _matching(side, stride, 0, 0)} == set(range(12))


@pytest.mark.parametrize("shape", [(300, 260, 1), (180, 411, 3), (256, 256, 3), (100, 90, 3), (256, 400, 1)])
def test_resize_is_pillows_bicubic(shape):
    """Frames larger, smaller and as large come out within one level of Pillow's default resize, most of it equal.

    Grey levels that no overshoot takes beyond 0..255: Pillow 13 resizes some tall frames rows first, and the order
    then matters where levels are cut.
    """
    image = np.random.default_rng(0).integers(80, 176, shape, np.uint8)
    plain = image if shape[2] == 3 else image[:, :, 0]
    expected = np.asarray(Image.fromarray(plain).resize((256, 256), Image.Resampling.BICUBIC)).reshape(256, 256, -1)
    found = BicubicResize(shape, 256)(torch.from_numpy(image)[None])[0].permute(1, 2, 0).numpy()
    assert abs(found - expected.astype(float)).max() <= 1
    assert (found == expected).mean() > 0.7


def test_context_fits_the_frame():
    """Crops are never larger than the frame, and their context is whole strides."""
    for backbone in ("vgg16", "efficientnet_lite0"):
        for scale in MspbaSettings(backbone=backbone).scales:
            context = context_of(scale, 256)
            assert scale.side + 2 * context <= 256
            assert context % scale.stride == 0 == scale.context % scale.stride
    assert context_of(MspbaSettings(backbone="vgg16").scales[0], 256) == 96
    assert all(not scale.context for scale in MspbaSettings(mode="patch").scales)
