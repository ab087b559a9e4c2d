"""The stages as their definitions read, to measure the graph beside them; the detector uses none of them.

Shapes as in the modules they stand beside; float32, batch 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plugins.cpr.grb import KEEP, KL_EPS
from plugins.cpr.lrb import normalised
from plugins.cpr.settings import GRID
from plugins.smoothing import gaussian


def histograms(tap: Tensor, centres: Tensor) -> Tensor:
    """Spell [1, C, H, H] by broadcast distances to [words, C], count one-hot vectors in unfolded blocks.

    Returns [blocks, words]; for sides that the grid divides.
    """
    code = (tap - centres[:, :, None, None]).square().sum(1).argmin(0)
    words, side = centres.shape[0], tap.shape[2]
    hot = functional.one_hot(code, words).permute(2, 0, 1).float()[None]
    block = side // GRID
    unfolded = functional.unfold(hot, block, stride=block)
    return unfolded.view(words, block * block, -1).mean(1).T


def ranked(histogram: Tensor, references: Tensor, count: int) -> Tensor:
    """Return the ``count`` nearest of [N, blocks, words] by the smallest block divergences, int64 [count]."""
    q, r = histogram + KL_EPS, references + KL_EPS
    divergences = (q * (q / r).log()).sum(2).sort(1).values
    return divergences[:, :KEEP].sum(1).argsort()[:count]


def retrieved(query: Tensor, bank: Tensor, chosen: Tensor, reach: int) -> Tensor:
    """Return A [H, W] by unfolding every region: query [1, D, H, W], bank of unit vectors [N, D, H, W], rows [K]."""
    unit = normalised(query)
    side = 2 * reach + 1
    inside = functional.unfold(torch.ones_like(unit[:, :1]), side, padding=reach)
    nearest = []
    for row in chosen:  # one at a time: all of them unfolded would be close to a gigabyte
        around = functional.unfold(bank.index_select(0, row.view(1)), side, padding=reach)
        products = unit.flatten(2)[:, :, None] * around.view(1, unit.shape[1], side * side, -1)
        cosines = torch.where(inside > 0, products.sum(1), -4.0)
        nearest.append(1 - cosines.amax(1))
    return torch.stack(nearest).amin(0).view(query.shape[2:])


def fused(near: Tensor, far: Tensor, side: int) -> Tensor:
    """Add two scales' maps [H, H] and [H / 2, H / 2] at the finer one's size, then enlarge to [side, side]."""
    far = functional.interpolate(far[None, None], size=near.shape, mode="bilinear", align_corners=False)
    return functional.interpolate(near + far, size=(side, side), mode="bilinear", align_corners=False)[0, 0]


def weighted(large: Tensor, foreground: Tensor, references: Tensor) -> Tensor:
    """Weigh a map [S, S] by the largest of the foregrounds [1, H, W] and [K, H, W], each enlarged."""
    every = torch.cat((foreground, references))[None]
    return large * functional.interpolate(every, size=large.shape, mode="bilinear", align_corners=False).amax((0, 1))


def blurred(plane: Tensor, sigma: float, size: int) -> Tensor:
    """Blur a map [S, S] by one two-dimensional kernel over reflected borders."""
    taps = gaussian(sigma, size)
    padded = functional.pad(plane[None, None], (size // 2,) * 4, mode="reflect")
    return functional.conv2d(padded, (taps[:, None] * taps[None])[None, None])[0, 0]


def scored(plane: Tensor, top: int) -> Tensor:
    """Return the mean of the ``top`` largest pixels by sorting all of them, float32 []."""
    return plane.flatten().sort(descending=True).values[:top].mean()
