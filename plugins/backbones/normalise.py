"""From pixels to network input, inside the graph: constants travel with it, never in the caller's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from plugins.backbones.registry import RGB


class Normalise(nn.Module):
    """(pixel - mean) / std as one multiply-add; ``mean`` and ``std`` per RGB channel in units of 0..255 pixels."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: RGB, std: RGB) -> None:
        super().__init__()
        # Divided in double precision and rounded once.
        scale = 1.0 / torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
        shift = -torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1) * scale
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", shift.float())

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) RGB or (B, 1, H, W) grey, uint8 or float of 0..255 -> (B, 3, H, W) in the buffers' dtype."""
        return pixels.to(self.scale.dtype) * self.scale + self.shift
