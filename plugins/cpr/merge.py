"""The heads as they run: what ``LocalHead`` computes in eval mode, in fewer and larger steps (specification, 9.4).

* batch norms are folded into the convolutions before them;
* the four 1 x 1 convolutions of the Inception block are one; averaging commutes with a 1 x 1 convolution and, because
  padding is not counted, with its bias, so branch 3 averages its 64 output channels instead of 192 input channels;
* a shortcut is more inputs of the last convolution;
* a last convolution with more outputs than inputs (384 from 256) is replaced by R of [W b] = Q R: every product of two
  local features, and so every cosine, stays what it is, and a third of the bank is not stored, gathered and multiplied.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.cpr.lrb import BRANCH, HIDDEN, ConvNormRelu, Inception, LocalHead

_Layers = tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module, Inception, nn.Conv2d]


class MergedHead(nn.Module):
    """Inference form of a ``LocalHead``: [B, channels, H, W] -> [B, ``width``, H, W], not normalised.

    The same local features, or with ``reduced`` (the default) where that makes fewer channels a rotation of them: inner
    products and norms are the head's, to rounding. Computes in the format of its parameters, returns float32. Raises
    ``ValueError`` for a head in training mode.
    """

    def __init__(self, head: LocalHead, *, reduced: bool = True) -> None:
        super().__init__()
        if head.training:
            raise ValueError("expected a head in eval mode: its batch norms' running statistics are folded")
        with torch.no_grad():
            stem, norm, _, block, last = cast("_Layers", tuple(head.layers))
            hidden, second = cast("tuple[ConvNormRelu, ConvNormRelu]", tuple(block.branch1))
            self.stem = _conv(*_folded(stem, norm))
            last_two = cast("tuple[ConvNormRelu, ConvNormRelu]", (block.branch2[0], block.branch3[1]))
            branches = block.branch0, last_two[0], hidden, last_two[1]
            parts = [_folded(each.conv, each.bn) for each in branches]
            self.wide = _conv(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]))
            self.near = _conv(*_folded(second.conv, second.bn))
            straight = head.shortcut
            weight, bias = last.weight.double(), cast("Tensor", last.bias).double()
            # From the head's order (branch 0, 1, 2, 3) to this module's (0, 2, 3, 1).
            weight = torch.cat([weight[:, branch * BRANCH : (branch + 1) * BRANCH] for branch in (0, 2, 3, 1)], 1)
            if straight is not None:
                weight = torch.cat((weight, straight.weight.double()), 1)
            if reduced:
                weight, bias = _reduced(weight, bias)
            self.last = _conv(weight, bias)
            self.shortcut = straight is not None
        self.width = self.last.out_channels
        self.requires_grad_(requires_grad=False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it

    def forward(self, x: Tensor) -> Tensor:
        """Return local features; see the class."""
        x = x.to(self.stem.weight.dtype)
        wide = self.wide(functional.relu(self.stem(x)))
        one = functional.relu(wide[:, : 2 * BRANCH])
        hidden = functional.relu(wide[:, 2 * BRANCH : 2 * BRANCH + HIDDEN])
        mean = functional.avg_pool2d(wide[:, 2 * BRANCH + HIDDEN :], 3, 1, 1, count_include_pad=False)
        parts = [one, functional.relu(mean), functional.relu(self.near(hidden))]
        out: Tensor = self.last(torch.cat([*parts, x] if self.shortcut else parts, dim=1))
        return out.to(torch.float32)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float64, of the convolution followed by its norm."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("expected a batch norm with running statistics")
    gain = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    bias = norm.bias.double() - mean.double() * gain
    if conv.bias is not None:
        bias = bias + conv.bias.double() * gain
    return conv.weight.double() * gain.view(-1, 1, 1, 1), bias


def _reduced(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a 1 x 1 convolution by one of no more outputs than inputs + 1 with the same inner products."""
    outputs, inputs = weight.shape[:2]
    if outputs <= inputs + 1:
        return weight, bias
    _, right = torch.linalg.qr(torch.cat((weight.flatten(1), bias[:, None]), 1))
    return right[:, :-1, None, None], right[:, -1]


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    outputs, inputs, kernel, _ = weight.shape
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias is not None)
    conv.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.float(), requires_grad=False)
    return conv
