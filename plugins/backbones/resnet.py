"""ResNet18, Wide-ResNet50-2 and Wide-ResNet101-2 in torchvision's layout (He et al. 2016; Zagoruyko et al. 2016).

Every stage is two segments: "layerN.pre", the sum of the last block before its ReLU (signed), and "layerN", the ReLU
of it (the published stage output, which the next stage receives).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from plugins.backbones.layers import Conv, ConvNorm, Norm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STEM_CHANNELS = 64


def resnet18() -> Iterator[tuple[str, nn.Module]]:
    """Segments stem, layer1.pre, layer1 ... layer4; strides 2 (stem, then pooled) and 4, 8, 16, 32."""
    return _residual((2, 2, 2, 2), width_factor=1, bottleneck=False)


def wide_resnet50_2() -> Iterator[tuple[str, nn.Module]]:
    """As ``resnet18``, of bottlenecks whose inner convolutions are twice as wide."""
    return _residual((3, 4, 6, 3), width_factor=2, bottleneck=True)


def wide_resnet101_2() -> Iterator[tuple[str, nn.Module]]:
    """As ``wide_resnet50_2`` with 23 blocks in layer3."""
    return _residual((3, 4, 23, 3), width_factor=2, bottleneck=True)


def _residual(depths: Sequence[int], *, width_factor: int, bottleneck: bool) -> Iterator[tuple[str, nn.Module]]:
    stem = _unit("conv1", "bn1", (3, STEM_CHANNELS), 7, stride=2, activation=nn.ReLU(inplace=True))
    yield "stem", nn.Sequential(stem, nn.MaxPool2d(3, 2, 1))
    channels = STEM_CHANNELS
    for index, depth in enumerate(depths):
        planes = STEM_CHANNELS << index
        layer, out = f"layer{index + 1}", planes * 4 if bottleneck else planes
        blocks: list[nn.Module] = []
        for number in range(depth):
            stride = 2 if index and not number else 1
            widths = (
                (channels, planes * width_factor, planes * width_factor, out) if bottleneck else (channels, out, out)
            )
            blocks.append(Block(f"{layer}.{number}", widths, stride))
            channels = out
        # ReLUs between the blocks, none after the last: that one is the next segment.
        yield f"{layer}.pre", nn.Sequential(*_between(blocks))
        yield layer, nn.ReLU()


def _between(blocks: Sequence[nn.Module]) -> Iterator[nn.Module]:
    yield blocks[0]
    for _, block in pairwise(blocks):
        yield nn.ReLU(inplace=True)
        yield block


class Block(nn.Module):
    """A residual block without its last ReLU: 3x3, 3x3 for two ``widths`` steps, 1x1, 3x3, 1x1 for three.

    The stride sits in the first 3x3 convolution (torchvision's choice, not the first 1x1 of the original paper).
    """

    def __init__(self, key: str, widths: Sequence[int], stride: int) -> None:
        super().__init__()
        steps = list(pairwise(widths))
        kernels = (1, 3, 1) if len(steps) == 3 else (3, 3)  # noqa: PLR2004 - the two kinds of block
        strided = kernels.index(3)
        self.steps = nn.Sequential(
            *(
                _unit(
                    f"{key}.conv{number + 1}",
                    f"{key}.bn{number + 1}",
                    step,
                    kernels[number],
                    stride=stride if number == strided else 1,
                    activation=nn.ReLU(inplace=True) if number < len(steps) - 1 else None,
                )
                for number, step in enumerate(steps)
            )
        )
        shape_kept = stride == 1 and widths[0] == widths[-1]
        self.shortcut = (
            nn.Identity()
            if shape_kept
            else _unit(f"{key}.downsample.0", f"{key}.downsample.1", (widths[0], widths[-1]), 1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, widths[0], H, W) -> (B, widths[-1], H / stride, W / stride), signed."""
        out: Tensor = self.steps(x) + self.shortcut(x)
        return out


def _unit(
    conv: str,
    norm: str,
    channels: tuple[int, int],
    kernel: int,
    *,
    stride: int = 1,
    activation: nn.Module | None = None,
) -> ConvNorm:
    return ConvNorm(Conv(conv, channels, kernel, stride=stride), Norm(norm, channels[1]), activation)
