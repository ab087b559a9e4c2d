"""Antialiased bilinear resize to the detector's size, inside the graph: what Pillow's ``resize(BILINEAR)`` does."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Resize(nn.Module):
    """uint8 frames [B, H, W, C], C = 1 or 3, 0..255 -> float32 [B, C, size, size] of whole levels 0..255.

    Aspect ratio is not kept. The result is rounded to whole grey levels as an 8-bit resize would be, so that a frame
    resized beforehand and one resized here give the same features. Within one level of Pillow (HETMM specification,
    section 2 item 2).
    """

    def __init__(self, frame_shape: tuple[int, int, int], size: int) -> None:
        super().__init__()
        self.size = size
        self.same = frame_shape[:2] == (size, size)

    def forward(self, frames: Tensor) -> Tensor:
        """Resize; see the class."""
        planes = frames.permute(0, 3, 1, 2).to(torch.float32)
        if self.same:
            return planes
        resized = functional.interpolate(
            planes, size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )
        return resized.round().clamp(0.0, 255.0)
