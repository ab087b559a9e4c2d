"""All that is trained: features and residuals in, one logit for every pixel out (specification, sections 5 to 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from plugins.prn.attention import AttentionBlock
from plugins.prn.decoder import Decoder
from plugins.prn.fusion import Fusion
from plugins.prn.layers import ConvNorm
from plugins.prn.settings import SCALES, map_shapes, widths_of

if TYPE_CHECKING:
    from plugins.prn.settings import PrnSettings


class Network(nn.Module):
    """Four maps of the encoder and three residuals -> logits float32 [B, 1, S, S].

    Maps [B, Cj, S/4 .. S/32]; residuals in the shapes of the first three. Where the encoder's channels are not those of
    the network's width, they are brought to it by 1 x 1 convolutions with batch norm (ours: a small network).
    """

    def __init__(self, settings: PrnSettings) -> None:
        super().__init__()
        widths, shapes = widths_of(settings), map_shapes(settings)
        have = [channels for channels, _ in shapes]
        self.reduce_features = _reductions(have, widths)
        self.reduce_residuals = _reductions(have[:SCALES], widths[:SCALES])
        self.fuse_features = Fusion(widths[:SCALES])
        self.fuse_residuals = None if settings.share_fuser else Fusion(widths[:SCALES])
        self.attention = nn.ModuleList(
            nn.Sequential(*(AttentionBlock(2 * width, side, settings.attn_scale) for _ in range(settings.blocks)))
            for width, (_, side) in zip(widths[:SCALES], shapes[:SCALES], strict=True)
        )
        self.fuse_again = Fusion([2 * width for width in widths[:SCALES]])
        self.decoder = Decoder(settings.width)

    def forward(self, taps: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
        """Segment; see the class."""
        *maps, deepest = [reduce(tap) for reduce, tap in zip(self.reduce_features, taps, strict=True)]
        apart = [reduce(each) for reduce, each in zip(self.reduce_residuals, residuals, strict=True)]
        features = self.fuse_features(maps)
        unlike = (self.fuse_features if self.fuse_residuals is None else self.fuse_residuals)(apart)
        both = [torch.cat(each, 1) for each in zip(features, unlike, strict=True)]
        seen = [attention(each) for attention, each in zip(self.attention, both, strict=True)]
        logits: Tensor = self.decoder(self.fuse_again(seen), deepest)
        return logits


def _reductions(have: Sequence[int], want: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Identity() if channels == width else ConvNorm(channels, width, 1, activates=False)
        for channels, width in zip(have, want, strict=True)
    )
