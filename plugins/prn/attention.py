"""Multi-size self-attention: patches of four sizes attend to each other (specification, section 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from plugins.prn.layers import ConvNorm

#: Patches are the whole map, and its half, quarter and eighth.
DIVISIONS = (1, 2, 4, 8)


def split(maps: Tensor, patch: int) -> Tensor:
    """Cut maps [B, C, H, H] into tokens [B, (H / patch)^2, C patch^2]: patches row by row, (channel, row, column)."""
    batch, channels, side, _ = maps.shape
    count = side // patch
    folded = maps.reshape(batch, channels, count, patch, count, patch)
    return folded.permute(0, 2, 4, 1, 3, 5).reshape(batch, count * count, channels * patch * patch)


def join(tokens: Tensor, channels: int, side: int) -> Tensor:
    """Put tokens of ``split`` back into maps [B, channels, side, side]."""
    batch = tokens.shape[0]
    count = math.isqrt(tokens.shape[1])
    patch = side // count
    folded = tokens.reshape(batch, count, count, channels, patch, patch)
    return folded.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, side, side)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return softmax(q k^T scale) v of tokens [B, L, d]; one head, no positions."""
    weights = (query @ key.transpose(1, 2) * scale).softmax(-1)
    return weights @ value


class Affine(nn.Module):
    """One scale and one offset for every component of a token [B, L, d]: the projection of this attention."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(length).uniform_(-1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Scale and shift."""
        return torch.addcmul(self.bias, tokens, self.weight)


class PatchAttention(nn.Module):
    """Attention among the patches of one size: maps [B, C, H, H] -> the same shape.

    A single patch attends to itself with weight 1: query and key do not matter, and do not exist.
    """

    def __init__(self, channels: int, side: int, patch: int, attn_scale: str) -> None:
        super().__init__()
        self.channels, self.side, self.patch = channels, side, patch
        length = channels * patch * patch
        self.scale = 1.0 / (math.sqrt(length) if attn_scale == "sqrt" else length)
        self.value = Affine(length)
        self.query: Affine | None = None
        self.key: Affine | None = None
        if patch < side:
            self.query, self.key = Affine(length), Affine(length)

    def forward(self, maps: Tensor) -> Tensor:
        """Attend; see the class."""
        tokens = split(maps, self.patch)
        value = self.value(tokens)
        if self.query is not None and self.key is not None:
            value = attend(self.query(tokens), self.key(tokens), value, self.scale)
        return join(value, self.channels, self.side)


class AttentionBlock(nn.Module):
    """Attention of four patch sizes side by side, then a residual block back: [B, C, H, H] -> the same shape."""

    def __init__(self, channels: int, side: int, attn_scale: str) -> None:
        super().__init__()
        self.sizes = nn.ModuleList(
            PatchAttention(channels, side, side // division, attn_scale) for division in DIVISIONS
        )
        wide = len(DIVISIONS) * channels
        self.first = ConvNorm(wide, channels, 3, activates=True)
        self.second = ConvNorm(channels, channels, 3, activates=False)
        self.shortcut = nn.Conv2d(wide, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Attend; see the class."""
        seen = torch.cat([attention(maps) for attention in self.sizes], 1)
        total: Tensor = self.second(self.first(seen)) + self.shortcut(seen)
        return total.relu()
