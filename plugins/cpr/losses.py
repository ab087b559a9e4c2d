"""What the local heads are trained to: normal pairs alike, remote and anomalous pairs unlike (specification, 7.5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Cosines above the first and below the second cost nothing; the power of what lies between.
LIKE, UNLIKE = 0.8, -0.2
POWER = 3
#: Keeps the weights of remote pairs finite where a frame and its reference do not differ at all.
WEIGHT_EPS = 1e-7


def positions(pixels: Tensor, size: int, side: int) -> Tensor:
    """Return where pixels 0 .. size - 1 lie on a map of ``side``: x side / (size - 1) - 1/2 (the authors' way)."""
    return pixels * (side / (size - 1)) - 0.5


def read(maps: Tensor, at: Tensor) -> Tensor:
    """Read maps [B, D, h, w] at positions ``at`` float32 [B, n, 2], (x, y) in map pixels -> [B, n, D].

    Bilinear; beyond the map lies zero.
    """
    height, width = maps.shape[-2:]
    scale = torch.tensor((2 / width, 2 / height), device=at.device)
    grid = (at + 0.5) * scale - 1.0
    found = functional.grid_sample(maps, grid.unsqueeze(1).to(maps.dtype), mode="bilinear", align_corners=False)
    return found.squeeze(2).transpose(1, 2)


def like_loss(cosines: Tensor, weights: Tensor) -> Tensor:
    """Return sum((max(0, LIKE - c) w)^3) / max(1, pairs of weight > 0) of normal pairs; both float32, any one shape."""
    return _mean((LIKE - cosines).clamp(min=0.0), weights)


def unlike_loss(cosines: Tensor, weights: Tensor) -> Tensor:
    """Return sum((max(0, c - UNLIKE) w)^3) / max(1, pairs of weight > 0) of remote and anomalous pairs."""
    return _mean((cosines - UNLIKE).clamp(min=0.0), weights)


def remote_weights(squared: Tensor, valid: Tensor) -> Tensor:
    """Return the weights of remote pairs [B, n]: ``squared`` distances of the backbone's vectors, mean 1 over each row.

    ``valid`` float32 [B, n], 1 or 0 (padding, which gets 0).
    """
    counted = squared * valid
    return counted / (counted.sum(1, keepdim=True) + WEIGHT_EPS) * valid.sum(1, keepdim=True)


def _mean(distance: Tensor, weights: Tensor) -> Tensor:
    # The weight is inside the power, as in the authors' code and not in their paper.
    return (distance * weights).pow(POWER).sum() / (weights > 0).sum().clamp(min=1)
