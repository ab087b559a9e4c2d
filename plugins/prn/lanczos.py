"""Antialiased Lanczos resize as two products with fixed matrices: every compiler takes it, and Pillow agrees."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

#: Lobes of the kernel on each side.
_LOBES = 3.0


class LanczosResize(nn.Module):
    """uint8 frames [B, H, W, C], C = 1 or 3, 0..255 -> float32 [B, C, size, size] of whole levels 0..255.

    Aspect ratio is not kept (specification, section 1, but for the centre crop: a map covers the whole frame). Within
    one level of Pillow's LANCZOS: columns first, and rounded in between.
    """

    down: Tensor
    across: Tensor

    def __init__(self, frame_shape: tuple[int, int, int], size: int) -> None:
        super().__init__()
        self.same = frame_shape[:2] == (size, size)
        self.register_buffer("down", lanczos_matrix(frame_shape[0], size).clone(), persistent=False)
        self.register_buffer("across", lanczos_matrix(frame_shape[1], size).T.contiguous(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Resize; see the class."""
        planes = frames.to(torch.float32).permute(0, 3, 1, 2)
        if self.same:
            return planes
        narrow = (planes @ self.across).round().clamp(0.0, 255.0)
        return (self.down @ narrow).round().clamp(0.0, 255.0)


@lru_cache(maxsize=32)
def lanczos_matrix(source: int, target: int) -> Tensor:
    """Return R, float32 [target, source], rows summing to 1, such that R x is x resized as Pillow's LANCZOS does.

    Kept for the next caller: not to be written to.
    """
    scale = max(1.0, source / target)
    reach = _LOBES * scale
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for row in range(target):
        centre = (row + 0.5) * source / target
        first, last = max(0, math.floor(centre - reach + 0.5)), min(source, math.floor(centre + reach + 0.5))
        at = (torch.arange(first, last, dtype=torch.float64) + 0.5 - centre) / scale
        weights = torch.sinc(at) * torch.sinc(at / _LOBES) * (at.abs() < _LOBES)
        matrix[row, first:last] = weights / weights.sum()
    return matrix.float()
