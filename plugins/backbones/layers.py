"""The parts all backbones are made of. Each carries the key its tensors have in the published state dict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Conv(nn.Conv2d):
    """Convolution whose tensors are published as ``key.weight`` and ``key.bias``.

    ``same`` asks for TensorFlow's padding: output size ceil(size / stride), the odd pixel at the end. It depends on
    the input size, which is a constant under torch.export with static shapes.
    """

    def __init__(
        self,
        key: str,
        channels: tuple[int, int],
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        same: bool = False,
    ) -> None:
        super().__init__(*channels, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.key = key
        # At stride 1 both paddings are the symmetric one whatever the size.
        self.same = same and stride > 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, ceil(H / stride), ceil(W / stride))."""
        if not self.same:
            return super().forward(x)
        kernel, stride = self.kernel_size[0], self.stride[0]
        top, bottom = same_padding(x.shape[2], kernel, stride)
        left, right = same_padding(x.shape[3], kernel, stride)
        if top == bottom and left == right:  # the convolution pads by itself, one operation less
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        if bottom - top == right - left == 1:
            # A leading tap of zero instead of a padded copy of the input: the same sums, and at 160 x 160 pixels and
            # 96 channels 0.4 ms instead of 0.8 (channels last), 1.3 instead of 11 (channels first).
            weight = F.pad(self.weight, (1, 0, 1, 0))
            return F.conv2d(x, weight, self.bias, self.stride, (bottom, right), self.dilation, self.groups)
        padded = F.pad(x, (left, right, top, bottom))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of one axis, in pixels before and after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Norm(nn.BatchNorm2d):
    """Batch norm whose tensors are published below ``key``; always with its running statistics (see ``Trunk``)."""

    def __init__(self, key: str, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.key = key


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation; folded, the norm is an identity and the convolution has a bias."""

    def __init__(self, conv: Conv, norm: Norm, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv: Conv = conv
        self.norm: nn.Module = norm
        self.activation = activation if activation is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H', W'), sizes as of the convolution."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class Trunk(nn.Module):
    """Named segments run one after the other; returns the outputs of those that are tapped, in the order asked.

    Consumes ``segments`` only up to the last tap, so nothing beyond it is built. Frozen: no gradients into its
    parameters, and ``train()`` of a surrounding module leaves it in eval mode, so its statistics never move.
    """

    def __init__(self, segments: Iterable[tuple[str, nn.Module]], taps: Sequence[str]) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.names: list[str] = []
        self.segments = nn.ModuleList()
        left = set(taps)
        for name, module in segments:
            self.names.append(name)
            self.segments.append(module)
            left.discard(name)
            if not left:
                break
        self.requires_grad_(requires_grad=False)
        self.train()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - torch's signature
        """Stay in eval mode, whatever is asked."""
        return super().train(mode=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) normalised RGB -> one (B, C, h, w) per tap."""
        tapped: dict[str, Tensor] = {}
        for name, segment in zip(self.names, self.segments, strict=True):
            x = segment(x)
            if name in self.taps:
                tapped[name] = x
        return tuple(tapped[tap] for tap in self.taps)
