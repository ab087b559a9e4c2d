"""The resize inside the graph is the one Pillow does, which published detectors were tuned with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from plugins.resize import Resize


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
