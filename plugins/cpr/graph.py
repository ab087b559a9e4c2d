"""CPR's one graph: uint8 frames and the bank in, map and image score out (specification, sections 3 to 6 and 9.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.backbones import load_backbone, normaliser
from plugins.cpr.feb import Foreground, ForegroundMap
from plugins.cpr.grb import Codebook, Histograms, distances, nearest_references
from plugins.cpr.lrb import LocalHead, LocalHeads, beside_raw
from plugins.cpr.merge import MergedHead
from plugins.cpr.retrieval import ShiftedRetrieval, TiledRetrieval
from plugins.cpr.settings import map_shapes, score_pixels_of
from plugins.resize import LargestEnlarged, PlainResize, bilinear_matrix
from plugins.smoothing import reflecting_blur

if TYPE_CHECKING:
    from plugins.backbones.layers import Trunk
    from plugins.cpr.settings import CprSettings

#: Half-widths of the searched regions: 3 x 3 pixels in the finest layer, the very place in the others.
REACH = (1, 0)


@dataclass(frozen=True)
class Learnt:
    """What was learnt beside the references themselves: codebook float32 [12, C], foreground, heads in eval mode.

    ``foreground`` None: switched off. ``heads`` None: the backbone's own features are compared. Heads of layers whose
    ``raw_share`` is 1 are not read.
    """

    centres: Tensor
    foreground: Foreground | None
    heads: LocalHeads | None


class Features(nn.Module):
    """Resized frames to backbone maps: float32 [B, C, S, S] levels, C 1 or 3 -> per layer [B, Cj, Hj, Wj], frozen.

    float32 whatever format the network computes in.

    ``backbone`` replaces the one whose weights are on this machine.
    """

    def __init__(self, settings: CprSettings, backbone: Trunk | None = None) -> None:
        super().__init__()
        self.normalise = normaliser(settings.backbone)
        backbone = load_backbone(settings.backbone, settings.layer_names) if backbone is None else backbone
        self.dtype = getattr(torch, settings.network_dtype)
        # Pixel by pixel: faster on every processor tried, and what is compared later is pixels.
        self.backbone = backbone.to(self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Extract; see the class."""
        taps = self.backbone(self.normalise(planes).to(self.dtype))
        return tuple(tap.to(torch.float32) for tap in taps)


class Branches(nn.Module):
    """What is made of a frame's maps, and of every reference's: histograms, foreground map, local features.

    Per layer maps [B, Cj, Hj, Wj] -> (histograms float32 [B, 25, bins], foreground float32 [B, H1, W1] or None, local
    features [B, Dj, Hj, Wj] each, not normalised).
    """

    def __init__(self, settings: CprSettings, learnt: Learnt) -> None:
        super().__init__()
        self.codebook = Codebook(learnt.centres)
        self.histograms = Histograms(map_shapes(settings)[0][1])
        self.foreground = None if learnt.foreground is None else ForegroundMap(learnt.foreground)
        self.raw_shares = settings.raw_shares
        heads = learnt.heads or [None] * len(self.raw_shares)
        self.heads = nn.ModuleList(
            nn.Identity() if share == 1 else MergedHead(cast("LocalHead", head))
            for head, share in zip(heads, self.raw_shares, strict=True)
        ).to(getattr(torch, settings.network_dtype))

    def forward(self, taps: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Evaluate the branches; see the class."""
        histograms = self.histograms(self.codebook(taps[0]))
        foreground = None if self.foreground is None else self.foreground(taps[0])
        return histograms, foreground, self.local(taps)

    def local(self, taps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the local features alone."""
        layers = zip(self.heads, taps, self.raw_shares, strict=True)
        return tuple(beside_raw(head(tap), tap, share) for head, tap, share in layers)


class Comparison(nn.Module):
    """A frame's branches and the bank -> (map [B, S, S], score [B]): rank, compare, fuse, weigh, smooth, score."""

    enlarge: Tensor
    finish: Tensor

    def __init__(self, settings: CprSettings) -> None:
        super().__init__()
        size, shapes = settings.image_size, map_shapes(settings)
        sides = [side for _, side in shapes]
        form = TiledRetrieval if settings.retrieval == "tiled" else ShiftedRetrieval
        self.nearest, self.size = settings.nearest, size
        self.top = score_pixels_of(settings)
        self.scales = nn.ModuleList(
            form(side, side, REACH[0] if not level else REACH[1]) for level, side in enumerate(sides)
        )
        for level, (fine, coarse) in enumerate(pairwise(sides)):
            self.register_buffer(f"up{level}", bilinear_matrix(coarse, fine), persistent=False)
        blur = reflecting_blur(size, settings.blur_sigma, settings.blur_kernel) if settings.blur_sigma else None
        enlarge = bilinear_matrix(sides[0], size)
        self.weighs = settings.foreground == "on"
        if self.weighs:
            self.largest = LargestEnlarged(sides[0], size)
            self.register_buffer("enlarge", enlarge, persistent=False)
            self.register_buffer("finish", torch.eye(size) if blur is None else blur, persistent=False)
        else:  # nothing between enlarging and smoothing: one product
            self.register_buffer("finish", enlarge if blur is None else blur @ enlarge, persistent=False)
        self.finishes = not (self.weighs and blur is None)

    def forward(
        self, histograms: Tensor, foreground: Tensor | None, local: Sequence[Tensor], bank: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Compare; see ``CprGraph``."""
        log_references, empty, *rest = bank
        banks = rest[-len(self.scales) :]
        chosen = self.ranked(histograms, log_references, empty)
        weight = None if foreground is None else self.weight(foreground, rest[0], chosen)

        fused = self.fused(self.distances(local, banks, chosen))
        if weight is not None:
            fused = self.enlarged(fused) * weight
        anomaly_map = self.finished(fused)
        return anomaly_map, self.score(anomaly_map)

    def ranked(self, histograms: Tensor, log_references: Tensor, empty: Tensor) -> Tensor:
        """Return the rows of the references to compare with, int64 [B, K]."""
        return nearest_references(distances(histograms, log_references) + empty, self.nearest)

    def distances(self, local: Sequence[Tensor], banks: Sequence[Tensor], chosen: Tensor) -> list[Tensor]:
        """Return each scale's distances, [B, Hj, Wj]."""
        return [scale(each, bank, chosen) for scale, each, bank in zip(self.scales, local, banks, strict=True)]

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the sum of the scales' distances at the finest one's size, [B, H1, W1]."""
        total = maps[-1]
        for level in reversed(range(len(maps) - 1)):
            up = self.get_buffer(f"up{level}")
            total = maps[level] + _on_both_axes(up, total)
        return total

    def enlarged(self, fused: Tensor) -> Tensor:
        """Return [B, S, S] of [B, H1, W1], bilinearly between half-pixel centres; where a foreground is weighed in."""
        return _on_both_axes(self.enlarge, fused)

    def weight(self, foreground: Tensor, references: Tensor, chosen: Tensor) -> Tensor:
        """Return the largest foreground of frame and references at each pixel, [B, S, S]: enlarged, then compared."""
        batch, side = foreground.shape[:2]
        there = references.index_select(0, chosen.flatten()).to(torch.float32).view(batch, -1, side, side)
        largest: Tensor = self.largest(torch.cat((foreground.unsqueeze(1), there), 1))
        return largest

    def finished(self, fused: Tensor) -> Tensor:
        """Return the smoothed map [B, S, S]; without a foreground this enlarges, too."""
        return _on_both_axes(self.finish, fused) if self.finishes else fused

    def score(self, anomaly_map: Tensor) -> Tensor:
        """Return the mean of the largest pixels, [B]."""
        return anomaly_map.flatten(1).topk(self.top, dim=1).values.mean(1)


def _on_both_axes(matrix: Tensor, maps: Tensor) -> Tensor:
    """Return M X M^T, [B, S, S], of M [S, H] and maps [B, H, H].

    One product an axis for all maps together, with the matrix on the right: of constants there, compilers make weights.
    """
    size, side = matrix.shape
    rows = functional.linear(maps.mT.flatten(0, 1), matrix).view(-1, side, size)
    return functional.linear(rows.mT.flatten(0, 1), matrix).view(-1, size, size)


class CprGraph(nn.Module):
    """Whole detector for frames of one shape. ``forward(frames, *bank)``, the bank as of ``templates.bank_of``.

    Returns (map float32 [B, S, S], score float32 [B]), S = image_size: the smoothed, foreground-weighted sum of the
    scales' distances, and the mean of its largest pixels. Only the resize depends on the frame shape.
    """

    def __init__(self, resize: PlainResize, features: Features, branches: Branches, comparison: Comparison) -> None:
        super().__init__()
        self.resize, self.features, self.branches, self.comparison = resize, features, branches, comparison

    def forward(self, frames: Tensor, *bank: Tensor) -> tuple[Tensor, Tensor]:
        """Inspect; see the class."""
        found = self.branches(self.features(self.resize(frames)))
        result: tuple[Tensor, Tensor] = self.comparison(*found, bank)
        return result
