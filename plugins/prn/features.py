"""The frozen encoder: resized frames to the four maps PRN works on (specification, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

from plugins.backbones import load_backbone, normaliser
from plugins.prn.lanczos import LanczosResize

if TYPE_CHECKING:
    from plugins.backbones.layers import Trunk
    from plugins.prn.settings import PrnSettings

#: Pictures that go through the encoder together.
BATCH = 16


class Features(nn.Module):
    """Resized frames to maps: float32 [B, C, S, S] levels, C 1 or 3 -> four maps [B, Cj, S/4 .. S/32], float32.

    Frozen in eval mode, whatever mode is asked for: with batch statistics the residuals of normal frames would drift
    away from zero (section 13-1). ``backbone`` replaces the one whose weights are on this machine.
    """

    def __init__(self, settings: PrnSettings, backbone: Trunk | None = None) -> None:
        super().__init__()
        self.normalise = normaliser(settings.backbone)
        self.backbone = load_backbone(settings.backbone, settings.layer_names) if backbone is None else backbone
        self.requires_grad_(requires_grad=False)
        self.train(mode=False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        del mode
        return super().train(mode=False)

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Extract; see the class."""
        taps: tuple[Tensor, ...] = tuple(self.backbone(self.normalise(planes)))
        return taps


def encode(images: Sequence[np.ndarray], features: Features, device: str) -> tuple[Tensor, ...]:
    """Return the maps of pictures uint8 RGB or grey, [S, S, 3] or [S, S], on ``device``; ``BATCH`` at a time."""
    done = []
    for first in range(0, len(images), BATCH):
        stacked = np.stack([as_channels(image) for image in images[first : first + BATCH]])
        planes = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).to(torch.float32)
        with torch.no_grad():
            done.append(features(planes))
    return tuple(torch.cat(each) for each in zip(*done, strict=True))


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Return a frame uint8 [H, W] or [H, W, 3] at the working size as the graph resizes it, channels kept."""
    frame = as_channels(image)
    height, width, channels = frame.shape
    planes = LanczosResize((height, width, channels), size)(torch.from_numpy(frame)[None])[0]
    small: np.ndarray = planes.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return small if image.ndim == 3 else small[:, :, 0]  # noqa: PLR2004 - [H, W] is grey


def as_channels(image: np.ndarray) -> np.ndarray:
    """Return [H, W, C] of [H, W] or [H, W, C]."""
    return image if image.ndim == 3 else image[:, :, None]  # noqa: PLR2004 - [H, W] is grey
