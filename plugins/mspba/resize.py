"""Bicubic resize with antialiasing inside the graph, as Pillow's: two products with fixed matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Keys' cubic with a = -0.5, as Pillow has it (the paper's code resizes with Pillow's default).
_A = -0.5
_REACH = 2.0


class BicubicResize(nn.Module):
    """uint8 frames [B, H, W, C], C = 1 or 3, 0..255 -> float32 [B, C, size, size] of whole levels 0..255.

    Aspect ratio is not kept. Along rows first, then along columns, each rounded to whole levels, as Pillow's 8-bit
    resize does: within one level of it (Pillow 13 takes some tall frames the other way, which differs where overshoot
    is cut at 0 or 255). Matrices, because compilers have no converter for antialiased resizing.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, frame_shape: tuple[int, int, int], size: int) -> None:
        super().__init__()
        height, width, _ = frame_shape
        self.down, self.across = height != size, width != size
        self.register_buffer("rows", cubic_matrix(height, size), persistent=False)
        self.register_buffer("columns", cubic_matrix(width, size).T.contiguous(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Resize; see the class."""
        planes = frames.to(torch.float32).permute(0, 3, 1, 2)
        if self.across:
            planes = (planes @ self.columns).round().clamp(0.0, 255.0)
        if self.down:
            planes = (self.rows @ planes).round().clamp(0.0, 255.0)
        return planes


def cubic_matrix(source: int, target: int) -> Tensor:
    """Return R, float32 [target, source], whose rows are the cubic's taps, widened where the axis is made smaller."""
    ratio = source / target
    widen = max(1.0, ratio)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * ratio
    # Pillow cuts the support to whole pixels: those whose centre lies within it.
    first = (centre - _REACH * widen + 0.5).floor().clamp(min=0)
    end = (centre + _REACH * widen + 0.5).floor().clamp(max=source)
    at = torch.arange(source, dtype=torch.float64)[None]
    taps = _cubic((at + 0.5 - centre[:, None]) / widen)
    taps = torch.where((at >= first[:, None]) & (at < end[:, None]), taps, 0.0)
    return (taps / taps.sum(1, keepdim=True)).float()


def _cubic(at: Tensor) -> Tensor:
    x = at.abs()
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return torch.where(x < 1, near, torch.where(x < _REACH, far, 0.0))
