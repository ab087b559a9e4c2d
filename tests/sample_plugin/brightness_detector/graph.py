"""The modules of the ``brightness`` detector; apart from the rest because only they need torch when imported."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Spots(nn.Module):
    """Frames uint8 [B, H, W, C] to the brightness of their spots: float32 [B, side, side], grey levels 0..255."""

    def __init__(self, side: int, blur: int) -> None:
        super().__init__()
        self.side = side
        self.blur = blur

    def forward(self, frames: Tensor) -> Tensor:
        """Average channels, then areas, then neighbours (fewer at the border, so that it does not darken)."""
        grey = frames.to(torch.float32).mean(dim=3).unsqueeze(1)
        spots = functional.adaptive_avg_pool2d(grey, (self.side, self.side))
        smooth = functional.avg_pool2d(spots, self.blur, stride=1, padding=self.blur // 2, count_include_pad=False)
        return smooth.squeeze(1)


class BrightnessGraph(nn.Module):
    """What edgead runs: frames and the bank in, anomaly map and image score out."""

    def __init__(self, side: int, blur: int) -> None:
        super().__init__()
        self.spots = Spots(side, blur)

    def forward(self, frames: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Return (map float32 [B, side, side] in standard deviations, score float32 [B]: its largest value)."""
        anomaly_map = (self.spots(frames) - mean).abs() / spread
        return anomaly_map, anomaly_map.flatten(1).amax(1)
