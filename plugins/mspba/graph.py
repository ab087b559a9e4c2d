"""MSPBA's one graph: uint8 frames and the bank in, map and image score out (specification, sections 7, 8 and 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from plugins.mspba.geometry import spread_matrix
from plugins.mspba.nearest import NearestDistance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugins.mspba.embedding import Encoder
    from plugins.mspba.resize import BicubicResize
    from plugins.mspba.settings import MspbaSettings


class Spread(nn.Module):
    """Patch scores [B, grid^2], row-major -> map [B, S, S]: each pixel the mean of the patches that cover it."""

    matrix: Tensor

    def __init__(self, size: int, side: int, step: int) -> None:
        super().__init__()
        self.register_buffer("matrix", spread_matrix(size, side, step), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        """Spread; see the class."""
        grid = self.matrix.shape[1]
        return self.matrix @ scores.view(-1, grid, grid) @ self.matrix.T


class Comparison(nn.Module):
    """Embeddings per scale and the bank -> (map [B, S, S], score [B]): measure, spread, add, take the largest."""

    def __init__(self, settings: MspbaSettings) -> None:
        super().__init__()
        self.nearest = NearestDistance()
        self.spreads = nn.ModuleList(Spread(settings.image_size, scale.side, scale.step) for scale in settings.scales)

    def forward(self, embeddings: Sequence[Tensor], bank: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Compare; see ``MspbaGraph``."""
        weights, *rest = bank
        anomaly_map = (torch.stack(self.maps(embeddings, rest), 1) * weights.view(1, -1, 1, 1)).sum(1)
        return anomaly_map, anomaly_map.flatten(1).amax(1)

    def maps(self, embeddings: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Tensor]:
        """Return each scale's map, [B, S, S], not weighted; ``rows``: rows and halves of the scales in turn."""
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        return [
            spread(self.nearest(each, *pair))
            for spread, each, pair in zip(self.spreads, embeddings, pairs, strict=True)
        ]


class MspbaGraph(nn.Module):
    """Whole detector for frames of one shape. ``forward(frames, *bank)``, the bank as of ``templates.bank_of``.

    Returns (map float32 [B, S, S], score float32 [B]), S = image_size: the weighted sum over the scales of every
    pixel's mean patch distance, and its largest value. Only the resize depends on the frame shape.
    """

    def __init__(self, resize: BicubicResize, encoder: Encoder, comparison: Comparison) -> None:
        super().__init__()
        self.resize, self.encoder, self.comparison = resize, encoder, comparison

    def forward(self, frames: Tensor, *bank: Tensor) -> tuple[Tensor, Tensor]:
        """Inspect; see the class."""
        result: tuple[Tensor, Tensor] = self.comparison(self.encoder(self.resize(frames)), bank)
        return result
