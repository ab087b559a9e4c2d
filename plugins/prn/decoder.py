"""The U-shaped decoder: fused maps and the deepest feature map to a logit for every pixel (section 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plugins.prn.fusion import enlarged
from plugins.prn.layers import ConvNorm


class Decoder(nn.Module):
    """Fused [B, 2w, H, H], [B, 4w, H/2, H/2], [B, 8w, H/4, H/4], deepest [B, 8w, H/8, H/8] -> logits [B, 1, 4H, 4H]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        outs = (4 * width, 2 * width, width)
        skips = (8 * width, 4 * width, 2 * width)
        deeper = (8 * width, *outs[:-1])
        self.up = nn.ModuleList(_filter(came, out) for came, out in zip(deeper, outs, strict=True))
        self.merge = nn.ModuleList(
            nn.Sequential(_filter(skip + out, out), _filter(out, out)) for skip, out in zip(skips, outs, strict=True)
        )
        self.last = _filter(width, width)
        self.logit = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, fused: Sequence[Tensor], deepest: Tensor) -> Tensor:
        """Decode; see the class."""
        found = deepest
        for up, merge, skip in zip(self.up, self.merge, reversed(fused), strict=True):
            found = merge(torch.cat((skip, up(enlarged(found, skip.shape[-1]))), 1))
        logits: Tensor = self.logit(self.last(enlarged(found, 4 * found.shape[-1])))
        return logits


def _filter(channels: int, out: int) -> ConvNorm:
    return ConvNorm(channels, out, 3, activates=True)
