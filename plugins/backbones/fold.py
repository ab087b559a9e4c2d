"""Merge batch norms into the convolutions before them: the same function with half the operations."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from plugins.backbones.layers import ConvNorm, Norm

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fold_batchnorm(module: ModuleT) -> ModuleT:
    """Fold the norm of every ``ConvNorm`` inside ``module`` into its convolution, in place, and return the module.

    Exact up to one rounding to the weights' dtype (maps agree to 1e-5 relative), because eval-mode batch norm is an
    affine map per channel. Norms that no convolution precedes (DenseNet's first of each layer) stay. Folding twice
    changes nothing.
    """
    for part in module.modules():
        if isinstance(part, ConvNorm) and isinstance(part.norm, Norm):
            _fold(part, part.norm)
    return module


def _fold(part: ConvNorm, norm: Norm) -> None:
    mean, var = norm.running_mean, norm.running_var
    if norm.training or mean is None or var is None:
        raise ValueError("expected a batch norm in eval mode with running statistics; call eval() before folding")
    conv = part.conv
    with torch.no_grad():
        # In double precision: weights far smaller than the others of their layer keep their digits.
        gain = norm.weight.double() / (var.double() + norm.eps).sqrt()
        bias = norm.bias.double() - mean.double() * gain
        if conv.bias is not None:
            bias += conv.bias.double() * gain
        weight = conv.weight.double() * gain.view(-1, 1, 1, 1)
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    part.norm = nn.Identity()
