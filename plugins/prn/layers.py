"""Convolutions with batch norms, which are merged once training is over."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval


class ConvNorm(nn.Module):
    """A convolution with bias, batch norm, and ReLU if it ``activates``: [B, c, H, W] -> [B, d, H, W]."""

    def __init__(self, channels: int, out: int, kernel: int, *, activates: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
        self.norm: nn.Module = nn.BatchNorm2d(out)
        self.activates = activates

    def forward(self, x: Tensor) -> Tensor:
        """Filter; see the class."""
        y: Tensor = self.norm(self.conv(x))
        return y.relu() if self.activates else y

    def fold(self) -> None:
        """Merge the norm into the convolution, in place; the module must be in eval mode."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


def fold(network: nn.Module) -> None:
    """Merge every norm of a network in eval mode, in place: the same maps to rounding, in less time."""
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()
