"""What learns: a head per patch size on the backbone's map, and the classifier of the position task (section 2)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.mspba.geometry import DIRECTIONS

if TYPE_CHECKING:
    from plugins.mspba.settings import MspbaSettings, Scale

SLOPE = 0.1  # of every LeakyReLU
#: Widths between the tap's channels and the embedding, per patch side.
_HIDDEN: dict[int, tuple[int, ...]] = {64: (256, 128, 64), 32: (256, 128, 128, 64), 16: (128, 64, 32)}
#: Kernels per patch side and window: the published ones where the window is the published one.
_KERNELS: dict[tuple[int, int], tuple[int, ...]] = {(32, 8): (3, 3, 2, 2, 2), (16, 8): (3, 3, 3, 2)}
_CLASSIFIER = (128, 256, 512)


class PatchHead(nn.Sequential):
    """A tap's map [B, C, h, w] -> embeddings [B, D, h - n + 1, w - n + 1] in (-1, 1), n = the patch's window.

    Unpadded convolutions with LeakyReLU between, tanh last: on a map of n x n it encodes one patch, on a larger one
    every patch of it, with the work of neighbours shared and the same result.
    """

    def __init__(self, scale: Scale, dimension: int) -> None:
        widths = (scale.channels, *_HIDDEN[scale.side], dimension)
        layers: list[nn.Module] = []
        for (before, after), kernel in zip(pairwise(widths), kernels_of(scale), strict=True):
            layers += [nn.Conv2d(before, after, kernel), nn.LeakyReLU(SLOPE)]
        layers[-1] = nn.Tanh()
        super().__init__(*layers)


def kernels_of(scale: Scale) -> tuple[int, ...]:
    """Return the kernels of a head: they shrink the window to 1 x 1, by single pixels first where not published."""
    layers = len(_HIDDEN[scale.side]) + 1
    shrinking = (2,) * (scale.window - 1)
    return _KERNELS.get((scale.side, scale.window), (*shrinking, *(1,) * (layers - len(shrinking))))


class PooledHead(nn.Module):
    """Without training (section 9, item 6): a tap's features averaged over the patch and divided by their norm."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.window = scale.window

    def forward(self, tap: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h - n + 1, w - n + 1] of norm 1."""
        return functional.normalize(functional.avg_pool2d(tap, self.window, 1), dim=1, eps=1e-8)


class PositionClassifier(nn.Module):
    """Two patches' embeddings [B, D] each -> logits [B, 12] of the direction the second lies in.

    ``fixed_last``: the published code's last layer, whose weights, divided by the norms of their columns outside the
    gradient, never learn; only its bias does.
    """

    def __init__(self, dimension: int, *, fixed_last: bool = False) -> None:
        super().__init__()
        widths = (dimension, *_CLASSIFIER)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.LeakyReLU(SLOPE)]
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(widths[-1], DIRECTIONS)
        self.fixed_last = fixed_last

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Classify; see the class."""
        hidden = self.hidden(first - second)
        weight = column_normalised(self.last.weight.detach()) if self.fixed_last else self.last.weight
        return functional.linear(hidden, weight, self.last.bias)


def column_normalised(weight: Tensor) -> Tensor:
    """Return [out, in] with every column divided by its norm over the outputs."""
    return weight / weight.square().sum(0, keepdim=True).sqrt().clamp_min(1e-12)


def heads_of(settings: MspbaSettings) -> nn.ModuleList:
    """Return a head per scale, torch's own start, or the pooling ones that do not learn."""
    if settings.train == "none":
        return nn.ModuleList(PooledHead(scale) for scale in settings.scales)
    return nn.ModuleList(PatchHead(scale, settings.dimension) for scale in settings.scales)


class Learner(nn.Module):
    """All that a training changes: heads, classifiers, and the backbone where it is not frozen.

    ``doubt`` float32 [1] in a checkpoint: how often the similarity weight was cut after a collapse.
    """

    doubt: Tensor

    def __init__(self, settings: MspbaSettings, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.heads = heads_of(settings)
        self.classifiers = nn.ModuleList(
            PositionClassifier(settings.dimension, fixed_last=settings.parity) for _ in settings.scales
        )
        self.backbone = backbone
        self.register_buffer("doubt", torch.zeros(1))
