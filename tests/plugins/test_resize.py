"""The resize inside the graph is the one Pillow does, which published detectors were tuned with."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from plugins.resize import LargestEnlarged, PlainResize, Resize, bilinear_matrix


def picture(height, width, channels, seed=0):
    """Return a uint8 picture [H, W, C] with flat areas, hard edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    edges = 255.0 * ((y // 7 + x // 11) % 2)
    noise = rng.uniform(0, 255, (height, width, channels))
    return np.where((x < width // 2)[:, :, None], edges[:, :, None], noise).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(900, 900, 256), (97, 131, 64), (255, 33, 64), (40, 51, 64), (64, 200, 64), (1, 1, 32)],
)
def test_within_one_level_of_pillow(height, width, channels, size):
    """Every pixel is a whole level at most one from Pillow's: shrinking, enlarging, square or not, grey or colour."""
    image = picture(height, width, channels)
    found = Resize(image.shape, size)(torch.from_numpy(image)[None])
    assert found.shape == (1, channels, size, size)
    assert torch.equal(found, found.round())
    pillow = Image.fromarray(image.squeeze(2) if channels == 1 else image).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    expected = np.asarray(pillow, dtype=np.float32).reshape(size, size, channels).transpose(2, 0, 1)
    assert np.abs(found[0].numpy() - expected).max() <= 1


def test_frame_of_the_right_size_passes_untouched():
    """A frame that has the size already keeps every level, so resizing beforehand changes nothing."""
    image = torch.from_numpy(picture(64, 64, 3))[None]
    assert torch.equal(Resize((64, 64, 3), 64)(image), image.permute(0, 3, 1, 2).float())
    twice = Resize((90, 70, 3), 64)(torch.from_numpy(picture(90, 70, 3))[None])
    again = Resize((64, 64, 3), 64)(twice.permute(0, 2, 3, 1).to(torch.uint8))
    assert torch.equal(again, twice)


def test_flat_frame_stays_flat_at_both_ends_of_the_scale():
    """Black stays 0 and white 255: rounding never leaves the range of a byte."""
    for level in (0, 255):
        frame = torch.full((1, 83, 91, 3), level, dtype=torch.uint8)
        assert (Resize((83, 91, 3), 32)(frame) == level).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(900, 900, 320), (97, 131, 64), (40, 51, 64), (64, 200, 64), (1, 1, 32), (2, 7, 40)]
)
def test_plain_resize_is_within_one_level_of_opencv(channels, height, width, size):
    """Every pixel is a whole level at most one from OpenCV's default: no antialiasing, half-pixel centres."""
    image = picture(height, width, channels)
    found = PlainResize(image.shape, size)(torch.from_numpy(image)[None])
    assert found.shape == (1, channels, size, size)
    assert torch.equal(found, found.round())
    expected = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR).reshape(size, size, channels)
    assert np.abs(found[0].numpy() - expected.transpose(2, 0, 1)).max() <= 1


def test_plain_resize_in_the_specifications_numbers():
    """CPR T2: a row of 0, 10, ..., 90 becomes 8, 33, 58, 83 of four pixels; 0..70 of eight becomes 5, 25, 45, 65."""
    for levels, expected in (((0, 100, 10), [8, 33, 58, 83]), ((0, 80, 10), [5, 25, 45, 65])):
        row = torch.arange(*levels, dtype=torch.uint8).view(1, 1, -1, 1)
        found = PlainResize((1, row.shape[2], 1), 4)(row)
        # 7.5, 32.5 ... lie between two levels: either is within the rounding of an 8-bit resize.
        assert (found[0, 0, 0] - torch.tensor(expected)).abs().max() <= 1
        assert torch.equal(found[0, 0], found[0, 0, :1].expand(4, 4))


def test_plain_resize_keeps_a_frame_of_the_right_size():
    """A frame of the detector's size passes untouched, each channel apart from the others."""
    image = torch.from_numpy(picture(64, 64, 3))[None]
    assert torch.equal(PlainResize((64, 64, 3), 64)(image), image.permute(0, 3, 1, 2).float())


def test_enlarging_matrices_in_numbers():
    """CPR T18 and T19: a 2 x 2 map to 4 x 4, and the chain 2, 4, 16, whose middle differs from 2 to 16 at once."""
    matrix = bilinear_matrix(2, 4)
    found = matrix @ torch.tensor([[0.0, 1.0], [2.0, 3.0]]) @ matrix.T
    rows = [[0, 0.25, 0.75, 1], [0.5, 0.75, 1.25, 1.5], [1.5, 1.75, 2.25, 2.5], [2, 2.25, 2.75, 3]]
    torch.testing.assert_close(found, torch.tensor(rows))
    line = torch.tensor([0.0, 1.0])
    chain = bilinear_matrix(4, 16) @ (matrix @ line)
    torch.testing.assert_close(chain[2:8], torch.tensor([0.03125, 0.09375, 0.15625, 0.21875, 0.3125, 0.4375]))
    direct = bilinear_matrix(2, 16) @ line
    torch.testing.assert_close(direct[2:8], torch.tensor([0, 0, 0.0625, 0.1875, 0.3125, 0.4375]))


@pytest.mark.parametrize(("source", "target"), [(40, 80), (25, 100), (13, 7), (1, 5)])
def test_enlarging_matrices_are_torchs_interpolation(source, target):
    """U X U^T is torch's bilinear interpolation between half-pixel centres."""
    x = torch.rand(1, 1, source, source, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(x, size=(target, target), mode="bilinear", align_corners=False)
    matrix = bilinear_matrix(source, target)
    torch.testing.assert_close(matrix @ x[0, 0] @ matrix.T, expected[0, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("side", "size"), [(20, 80), (5, 10), (2, 8), (1, 4), (7, 28), (7, 21), (20, 78), (3, 32)])
def test_the_largest_of_enlarged_maps_is_torch_s_whatever_the_sides(side, size):
    """Every map is enlarged as torch does it, then compared, whether the sizes are multiples or not."""
    maps = torch.from_numpy(np.random.default_rng(side).random((2, 3, side, side), dtype=np.float32))
    large = torch.nn.functional.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
    found = LargestEnlarged(side, size)(maps)
    torch.testing.assert_close(found, large.amax(1), rtol=0, atol=1e-6)
    assert (found - large[:, 0]).abs().max() > 0.1
