"""The running mean of a network's weights: steadier than what the last step left (specification, section 9)."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` to hold its running mean; nothing flows back into it."""
    mean = copy.deepcopy(network)
    return mean.requires_grad_(requires_grad=False)


def follow(mean: nn.Module, network: nn.Module, kept: float, step: int) -> None:
    """Move ``mean`` towards ``network``, statistics of batch norms included; it keeps the share ``kept`` of itself.

    At first it keeps less, (1 + step) / (10 + step), so that the start is soon forgotten.
    """
    kept = min(kept, (1 + step) / (10 + step))
    with torch.no_grad():
        for old, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1.0 - kept)
