"""Where patches lie: grids, directions of position pairs, jitter, and how patch scores become a map.

Specification sections 3 and 7. Corners and offsets are (row, column) in pixels of the resized frame.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

#: Directions a second patch may lie in, 30 degrees apart.
DIRECTIONS = 12
#: A second patch lies 3/4 of a patch away, and up to a quarter more.
_NEAREST, _MORE = 0.75, 0.25
#: Largest jitter of a near patch: one in so many pixels of its side.
_JITTER = 16


def pair_offset(side: int, direction: int, down: int, across: int) -> tuple[int, int]:
    """Return the offset of a position pair's second patch; ``down``, ``across`` in 0 .. side / 4 - 1, drawn apart.

    (round(cos(30 d) (down + 3/4 side)), round(sin(30 d) (across + 3/4 side))), halves to even.
    """
    angle = 2 * math.pi * direction / DIRECTIONS
    # Twelve digits: the sine of 180 degrees is not quite zero, and half a pixel not quite a half.
    dy, dx = round(math.cos(angle), 12), round(math.sin(angle), 12)
    return round(round(dy * (down + _NEAREST * side), 9)), round(round(dx * (across + _NEAREST * side), 9))


@cache
def pair_offsets(side: int) -> np.ndarray:
    """Return every (direction, dy, dx) a pair is drawn from, int64 [12 (side / 4)^2, 3], all equally likely."""
    reach = range(int(_MORE * side))
    return np.array(
        [
            (pos, *pair_offset(side, pos, down, across))
            for pos in range(DIRECTIONS)
            for down in reach
            for across in reach
        ]
    )


def far_offset(side: int, offset: tuple[int, int]) -> tuple[int, int]:
    """Return a far patch's offset: a pair's, 3/4 of a patch further on each axis, zero counting as positive."""
    further = int(_NEAREST * side)
    return offset[0] + (-further if offset[0] < 0 else further), offset[1] + (-further if offset[1] < 0 else further)


def jitter(side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a near patch's offset: each component within side / 16 of zero (at least 1), never both zero."""
    most = max(1, side // _JITTER)
    while True:
        dy, dx = rng.integers(-most, most + 1, 2).tolist()
        if dy or dx:
            return dy, dx


def spread_matrix(size: int, side: int, step: int) -> Tensor:
    """Return W, float32 [size, grid], such that W D W^T spreads patch scores D [grid, grid] over the frame.

    Every patch adds its score to its ``side`` x ``side`` pixels, and every pixel is divided by the number of patches
    that cover it: both are separable, so that the transposed convolution of the definition is two products. Pixels that
    no patch covers are 0.
    """
    grid = 1 + (size - side) // step
    pixel = torch.arange(size)[:, None]
    corner = torch.arange(grid)[None] * step
    covers = ((pixel >= corner) & (pixel < corner + side)).double()
    return (covers / covers.sum(1, keepdim=True).clamp_min(1)).float()
