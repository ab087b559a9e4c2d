"""HETMM's one graph: uint8 frames and the bank in, anomaly map and image score out (specification, sections 2 to 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.backbones import backbone_of, load_backbone, normaliser
from plugins.hetmm.settings import halves, windows_of
from plugins.matching import MutualMatch
from plugins.resize import Resize
from plugins.smoothing import NormalisedBlur

if TYPE_CHECKING:
    from plugins.hetmm.settings import HetmmSettings


class Features(nn.Module):
    """Resized frames to unit vectors: float32 [B, C, S, S] levels -> per layer [B, Cj, Hj, Wj], norm 1 over Cj.

    A vector of zeros stays zeros: its distance to everything is 1.
    """

    def __init__(self, settings: HetmmSettings) -> None:
        super().__init__()
        self.normalise = normaliser(settings.backbone, settings.norm_std)
        self.backbone = load_backbone(settings.backbone, settings.layer_names)

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Extract; see the class."""
        taps = self.backbone(self.normalise(planes))
        return tuple(functional.normalize(tap, dim=1, eps=1e-12) for tap in taps)


class Matching(nn.Module):
    """Everything behind the features, the same for every frame shape: match, mix, sum, smooth, score."""

    def __init__(self, settings: HetmmSettings) -> None:
        super().__init__()
        size = settings.image_size
        self.size = size
        shapes = feature_shapes(settings)
        self.matches = nn.ModuleList(
            MutualMatch(height, width, *halves(window))
            for (_, height, width), window in zip(shapes, windows_of(settings), strict=True)
        )
        self.shares = [share(settings, layer) for layer in range(len(shapes))]
        sigma, kernel = settings.blur_sigma, settings.blur_kernel
        self.blur = NormalisedBlur(size, size, sigma, kernel) if sigma else None
        self.score_smoothed = settings.score == "smoothed_max"
        self.top = min(settings.score_pixels, size * size) if settings.score == "top_mean" else 1

    def forward(self, taps: tuple[Tensor, ...], bank: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return (map [B, S, S], score [B]); see ``HetmmGraph``."""
        total = torch.zeros((taps[0].shape[0], self.size, self.size), device=taps[0].device)
        for tap, tiles, match, (ahead, back) in zip(taps, bank, self.matches, self.shares, strict=True):
            a_forward, a_backward = match(tap, tiles)
            mixed = ahead * a_forward + back * a_backward
            total = total + functional.interpolate(
                mixed.unsqueeze(1), size=(self.size, self.size), mode="bilinear", align_corners=True
            ).squeeze(1)
        smoothed = total if self.blur is None else self.blur(total)
        scored = (smoothed if self.score_smoothed else total).flatten(1)
        return smoothed, scored.topk(self.top, dim=1).values.mean(1)


class HetmmGraph(nn.Module):
    """Whole detector for frames of one shape. ``forward(frames, *bank)``: one bank tensor of ``pack`` per layer.

    Returns (map float32 [B, S, S], score float32 [B]), S = image_size. Map: sum over layers of weight x upsampled
    (alpha a_F + (1 - alpha) a_B), smoothed; score: the mean of its largest values before smoothing, or its largest
    value before or after it. Only the resize depends on the frame shape; graphs share ``features`` and ``matching``.
    """

    def __init__(self, resize: Resize, features: Features, matching: Matching) -> None:
        super().__init__()
        self.resize, self.features, self.matching = resize, features, matching

    def forward(self, frames: Tensor, *bank: Tensor) -> tuple[Tensor, Tensor]:
        """Inspect; see the class."""
        result: tuple[Tensor, Tensor] = self.matching(self.features(self.resize(frames)), bank)
        return result


def share(settings: HetmmSettings, layer: int) -> tuple[float, float]:
    """Return one layer's factors of a_F and a_B in the sum; a direction that is off leaves everything to the other."""
    alpha, weight = float(settings.alpha[layer]), float(settings.weight[layer])
    ahead, back = halves(windows_of(settings)[layer])
    if ahead is None:
        alpha = 0.0
    if back is None:
        alpha = 1.0
    return weight * alpha, weight * (1 - alpha)


def feature_shapes(settings: HetmmSettings) -> list[tuple[int, int, int]]:
    """Return (channels, height, width) of each matched layer's map."""
    stages = backbone_of(settings.backbone).stages
    shapes = []
    for name in settings.layer_names:
        side = -(-settings.image_size // stages[name].stride)
        if name == "features.denseblock2":  # its transition pools without padding: an odd last row is dropped
            side = -(-settings.image_size // 4) // 2
        shapes.append((stages[name].channels, side, side))
    return shapes
