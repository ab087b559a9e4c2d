"""DenseNet201 up to its second dense block, in torchvision's layout (Huang et al. 2017).

The taps are the raw concatenations: no norm and no ReLU after them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from plugins.backbones.layers import Conv, ConvNorm, Norm

if TYPE_CHECKING:
    from collections.abc import Iterator

GROWTH = 32
BOTTLENECK = 4 * GROWTH
STEM_CHANNELS = 64


def densenet201() -> Iterator[tuple[str, nn.Module]]:
    """Segments stem (stride 4), features.denseblock1 (4), transition (8), features.denseblock2 (8)."""
    channels = STEM_CHANNELS
    stem = ConvNorm(
        Conv("features.conv0", (3, channels), 7, stride=2),
        Norm("features.norm0", channels),
        nn.ReLU(inplace=True),
    )
    yield "stem", nn.Sequential(stem, nn.MaxPool2d(3, 2, 1))
    yield "features.denseblock1", _dense_block("features.denseblock1", channels, 6)
    channels += 6 * GROWTH
    # Published as 1x1 convolution then average pool; both are linear per pixel, and pooled first it costs a quarter.
    yield (
        "transition",
        nn.Sequential(
            Norm("features.transition1.norm", channels),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
            Conv("features.transition1.conv", (channels, channels // 2)),
        ),
    )
    yield "features.denseblock2", _dense_block("features.denseblock2", channels // 2, 12)


def _dense_block(key: str, channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(f"{key}.denselayer{i + 1}", channels + i * GROWTH) for i in range(depth)))


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 to ``BOTTLENECK``, norm, ReLU, 3x3 to ``GROWTH`` new channels, appended to the input."""

    def __init__(self, key: str, channels: int) -> None:
        super().__init__()
        self.norm = Norm(f"{key}.norm1", channels)
        self.squeeze = ConvNorm(
            Conv(f"{key}.conv1", (channels, BOTTLENECK)),
            Norm(f"{key}.norm2", BOTTLENECK),
            nn.ReLU(inplace=True),
        )
        self.grow = Conv(f"{key}.conv2", (BOTTLENECK, GROWTH), 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + GROWTH, H, W); the first C channels are ``x``."""
        return torch.cat((x, self.grow(self.squeeze(self.norm(x).relu_()))), dim=1)
