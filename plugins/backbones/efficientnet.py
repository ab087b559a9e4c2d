"""EfficientNet-Lite0 and EfficientNet-B0 up to stride 32 and 8 (Tan and Le 2019; Lite: the TensorFlow release of 2020).

Lite0 is the edge variant: ReLU6, no squeeze-excite, TensorFlow's "same" padding, input (pixel - 127) / 128. B0 follows
torchvision: SiLU, squeeze-excite, symmetric padding. Both are made of inverted residuals: widen by a 1x1, filter each
channel, project without activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from plugins.backbones.layers import Conv, ConvNorm, Norm

if TYPE_CHECKING:
    from collections.abc import Iterator

STEM_CHANNELS = 32
EXPANSION = 6
# The TensorFlow networks were trained with this; torchvision's with the usual 1e-5.
LITE_EPS = 1e-3


class Shape(NamedTuple):
    """Channels in, widened and out, kernel size and stride of one inverted residual."""

    channels: int
    widened: int
    out: int
    kernel: int
    stride: int


class Rows(NamedTuple):
    """Equal blocks in a row; only the first one has the stride."""

    tap: str
    depth: int
    kernel: int
    stride: int
    out: int
    expansion: int = EXPANSION


_LITE0 = (
    Rows("stage0", 1, 3, 1, 16, expansion=1),
    Rows("stage1", 2, 3, 2, 24),
    Rows("stage2", 2, 5, 2, 40),
    Rows("stage3.half", 3, 3, 2, 80),
    Rows("stage3", 3, 5, 1, 112),
    Rows("stage4", 4, 5, 2, 192),
)
_B0 = (
    Rows("features.1", 1, 3, 1, 16, expansion=1),
    Rows("features.2", 2, 3, 2, 24),
    Rows("features.3", 2, 5, 2, 40),
)


def lite0() -> Iterator[tuple[str, nn.Module]]:
    """Segments stem and stage0 (stride 2), stage1 (4), stage2 (8), stage3.half and stage3 (16), stage4 (32)."""
    yield (
        "stem",
        ConvNorm(
            Conv("_conv_stem", (3, STEM_CHANNELS), 3, stride=2, same=True),
            Norm("_bn0", STEM_CHANNELS, LITE_EPS),
            nn.ReLU6(inplace=True),
        ),
    )
    number = 0
    for rows, shapes in _rows(_LITE0):
        blocks = [_lite_block(f"_blocks.{number + i}", shape) for i, shape in enumerate(shapes)]
        number += rows.depth
        yield rows.tap, nn.Sequential(*blocks)


def b0() -> Iterator[tuple[str, nn.Module]]:
    """Segments stem and features.1 (stride 2), features.2 (4), features.3 (8)."""
    yield (
        "stem",
        ConvNorm(
            Conv("features.0.0", (3, STEM_CHANNELS), 3, stride=2),
            Norm("features.0.1", STEM_CHANNELS),
            nn.SiLU(inplace=True),
        ),
    )
    for rows, shapes in _rows(_B0):
        yield rows.tap, nn.Sequential(*(_b0_block(f"{rows.tap}.{i}", s) for i, s in enumerate(shapes)))


def _rows(table: tuple[Rows, ...]) -> Iterator[tuple[Rows, list[Shape]]]:
    channels = STEM_CHANNELS
    for rows in table:
        shapes: list[Shape] = []
        for number in range(rows.depth):
            stride = 1 if number else rows.stride
            shapes.append(Shape(channels, channels * rows.expansion, rows.out, rows.kernel, stride))
            channels = rows.out
        yield rows, shapes


class InvertedResidual(nn.Module):
    """The given steps one after the other, and the input added where its shape is kept."""

    def __init__(self, shape: Shape, *steps: nn.Module) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps)
        self.skips = shape.stride == 1 and shape.channels == shape.out

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, ceil(H / stride), ceil(W / stride)), signed."""
        out: Tensor = self.steps(x)
        return out + x if self.skips else out


class SqueezeExcite(nn.Module):
    """Scale every channel by a factor of 0..1 that a small network computes from the channel means."""

    def __init__(self, key: str, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = Conv(f"{key}.fc1", (channels, squeezed), bias=True)
        self.expand = Conv(f"{key}.fc2", (squeezed, channels), bias=True)
        self.activation = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        factor: Tensor = self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * factor.sigmoid()


def _lite_block(key: str, shape: Shape) -> InvertedResidual:
    steps: list[nn.Module] = []
    if shape.widened != shape.channels:
        expand = Conv(f"{key}._expand_conv", (shape.channels, shape.widened))
        steps.append(ConvNorm(expand, Norm(f"{key}._bn0", shape.widened, LITE_EPS), nn.ReLU6(inplace=True)))
    depthwise = _depthwise(f"{key}._depthwise_conv", shape, same=True)
    steps.append(ConvNorm(depthwise, Norm(f"{key}._bn1", shape.widened, LITE_EPS), nn.ReLU6(inplace=True)))
    project = Conv(f"{key}._project_conv", (shape.widened, shape.out))
    steps.append(ConvNorm(project, Norm(f"{key}._bn2", shape.out, LITE_EPS)))
    return InvertedResidual(shape, *steps)


def _b0_block(key: str, shape: Shape) -> InvertedResidual:
    # torchvision numbers the steps of a block; without widening the numbers move up by one.
    steps: list[nn.Module] = []
    if shape.widened != shape.channels:
        expand = Conv(f"{key}.block.0.0", (shape.channels, shape.widened))
        steps.append(ConvNorm(expand, Norm(f"{key}.block.0.1", shape.widened), nn.SiLU(inplace=True)))
    at = f"{key}.block.{len(steps)}"
    depthwise = _depthwise(f"{at}.0", shape, same=False)
    steps.append(ConvNorm(depthwise, Norm(f"{at}.1", shape.widened), nn.SiLU(inplace=True)))
    # Squeezed to a quarter of the block's input channels, not of the widened ones.
    steps.append(SqueezeExcite(f"{key}.block.{len(steps)}", shape.widened, shape.channels // 4))
    at = f"{key}.block.{len(steps)}"
    steps.append(ConvNorm(Conv(f"{at}.0", (shape.widened, shape.out)), Norm(f"{at}.1", shape.out)))
    return InvertedResidual(shape, *steps)


def _depthwise(key: str, shape: Shape, *, same: bool) -> Conv:
    width = shape.widened
    return Conv(key, (width, width), shape.kernel, stride=shape.stride, groups=width, same=same)
