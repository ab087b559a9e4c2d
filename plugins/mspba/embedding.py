"""From resized frames to patch embeddings: dense, one backbone pass a frame, or patch by patch as published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from plugins.backbones import load_backbone, normaliser
from plugins.mspba.encoders import heads_of
from plugins.mspba.resize import BicubicResize

if TYPE_CHECKING:
    from plugins.backbones.layers import Trunk
    from plugins.mspba.settings import MspbaSettings

#: Names of the learnt arrays in a content, before the network's own.
HEADS, BACKBONE, MEAN = "heads.", "backbone.", "mean_image"
#: Resizes kept at once: each is half a megabyte and more.
_SHAPES = 16


class MeanNormalise(nn.Module):
    """(pixel - mean image) / 255: planes [B, 1 or 3, S, S] of 0..255 -> [B, 3, S, S]; ``mean`` float32 [S, S, 3]."""

    mean: Tensor

    def __init__(self, mean: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean).permute(2, 0, 1)[None].clone())

    def forward(self, planes: Tensor) -> Tensor:
        """Normalise; see the class."""
        return (planes - self.mean) / 255


class DenseEmbedding(nn.Module):
    """Network input [B, 3, S, S] -> per scale [B, grid^2, D], patches in row-major order: one pass of the backbone.

    Patch corners are multiples of the taps' strides, so that a head over the tap's map gives every patch's embedding as
    if it had been cut out of the frame together with the context its features see.
    """

    def __init__(self, settings: MspbaSettings, backbone: Trunk, heads: nn.ModuleList) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads
        self.skips = tuple(scale.step // scale.stride for scale in settings.scales)

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Embed; see the class."""
        found = []
        for head, skip, tap in zip(self.heads, self.skips, self.backbone(planes), strict=True):
            grid = head(tap)[:, :, ::skip, ::skip]
            found.append(grid.flatten(2).transpose(1, 2))
        return tuple(found)


class PatchEmbedding(nn.Module):
    """The same, every patch cut out and encoded alone, zeros around it in every layer: the published way."""

    def __init__(self, settings: MspbaSettings, backbone: Trunk, heads: nn.ModuleList) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads
        self.scales = settings.scales

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Embed; see the class."""
        found = []
        for head, scale in zip(self.heads, self.scales, strict=True):
            cut = planes.unfold(2, scale.side, scale.step).unfold(3, scale.side, scale.step)
            patches = cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
            embedded = head(run_to(self.backbone, scale.tap, patches))
            found.append(embedded.flatten(1).view(planes.shape[0], -1, embedded.shape[1]))
        return tuple(found)


def run_to(backbone: Trunk, tap: str, planes: Tensor) -> Tensor:
    """Run the backbone up to one tap and no further (specification, section 12, item 10)."""
    for name, segment in zip(backbone.names, backbone.segments, strict=True):
        planes = segment(planes)
        if name == tap:
            break
    return planes


class Encoder(nn.Module):
    """Whole levels [B, 1 or 3, S, S] of 0..255 -> patch embeddings per scale; what frames and references go through."""

    def __init__(self, settings: MspbaSettings, backbone: Trunk, heads: nn.ModuleList, mean: np.ndarray | None) -> None:
        super().__init__()
        self.normalise = normaliser(settings.backbone) if mean is None else MeanNormalise(mean)
        form = DenseEmbedding if settings.mode == "dense" else PatchEmbedding
        self.embedding = form(settings, backbone, heads)

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Encode; see the class."""
        found: tuple[Tensor, ...] = self.embedding(self.normalise(planes))
        return found


class Planes:
    """Resized references, kept as bytes and normalised when asked for: ``planes[3]`` is float32 [3, S, S]."""

    def __init__(self, levels: Tensor, normalise: nn.Module) -> None:
        """Take ``levels`` uint8 [N, 1 or 3, S, S]."""
        self.levels, self.normalise = levels, normalise
        self.size = int(levels.shape[-1])

    def __getitem__(self, number: int) -> Tensor:
        """Return the network input of one reference."""
        planes: Tensor = self.normalise(self.levels[number : number + 1].to(torch.float32))
        return planes[0]

    def gain(self) -> Tensor:
        """Return what a range of 0..1 is on the network's input, per channel: float32 [3, 1, 1]."""
        flat = torch.zeros(1, 3, self.size, self.size, device=self.levels.device)
        step: Tensor = self.normalise(flat + 255) - self.normalise(flat)
        return step[0, :, :1, :1].cpu()


class Resizes:
    """The resize of each frame shape, made once; of a folder of mixed sizes only the last ``_SHAPES`` are kept."""

    def __init__(self, size: int, device: str) -> None:
        self._size, self._device = size, device
        self._made: dict[tuple[int, ...], BicubicResize] = {}

    def __call__(self, image: np.ndarray) -> Tensor:
        """Return a frame uint8 [H, W] or [H, W, 3] as whole levels, float32 [1, 1 or 3, S, S] on the device."""
        image = image if image.ndim == 3 else image[:, :, None]  # noqa: PLR2004 - grey
        if image.shape not in self._made:
            height, width, channels = image.shape
            if len(self._made) >= _SHAPES:
                del self._made[next(iter(self._made))]
            self._made[image.shape] = BicubicResize((height, width, channels), self._size).to(self._device)
        # Copied: torch warns of arrays that are read only, as decoded frames are.
        planes: Tensor = self._made[image.shape](torch.tensor(image)[None].to(self._device))
        return planes


def trunk_of(settings: MspbaSettings, tensors: Mapping[str, np.ndarray] | None = None) -> Trunk:
    """Return the backbone: with the weights on this machine, or with those that ``tensors`` hold after a training."""
    # Pixel by pixel: faster on every processor tried.
    trunk: Trunk = load_backbone(settings.backbone, settings.taps).to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub
    learnt = {} if tensors is None else _below(BACKBONE, tensors)
    if learnt:
        trunk.load_state_dict(learnt)
    return trunk


def encoder_of(settings: MspbaSettings, tensors: Mapping[str, np.ndarray]) -> Encoder:
    """Return the encoder that a content's arrays describe, frozen; ``RuntimeError`` where they do not fit."""
    needed = ((BACKBONE, settings.train == "full"), (MEAN, settings.subtracts_mean))
    # Without them the published backbone and normalisation would stand in, and score every frame quietly wrong.
    for start in (start for start, is_needed in needed if is_needed):
        if not any(name.startswith(start) for name in tensors):
            raise RuntimeError(f"expected tensors {start}, found none")
    heads = heads_of(settings)
    heads.load_state_dict(_below(HEADS, tensors))
    encoder = Encoder(settings, trunk_of(settings, tensors), heads, tensors.get(MEAN))
    return encoder.requires_grad_(requires_grad=False).eval()


def learnt_tensors(
    settings: MspbaSettings, heads: nn.ModuleList, backbone: nn.Module | None, mean: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return what was learnt as arrays of a content, float32; ``backbone``: only one that was trained."""
    arrays = {f"{HEADS}{name}": each for name, each in heads.state_dict().items()} if settings.train != "none" else {}
    if backbone is not None:
        arrays |= {f"{BACKBONE}{name}": each for name, each in backbone.state_dict().items()}
    found = {name: each.detach().cpu().numpy().copy() for name, each in arrays.items()}
    return found if mean is None else {**found, MEAN: mean}


def _below(start: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name.removeprefix(start): torch.from_numpy(tensors[name]) for name in tensors if name.startswith(start)}
