"""Published backbones, cut after the stages a detector taps, as graphs of our own that torch.export takes whole.

``BACKBONES`` is the table; ``load_backbone`` and ``random_backbone`` build the prefix that reaches the last tap asked
for, ``normalise`` the step from pixels to network input. torch is imported when one of the three is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgead import ConfigError, locate_weights
from plugins.backbones.registry import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    WEIGHTS,
    Backbone,
    Stage,
    backbone_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from plugins.backbones.layers import Trunk
    from plugins.backbones.normalise import Normalise, NormStd

__all__ = [
    "BACKBONES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "WEIGHTS",
    "Backbone",
    "Stage",
    "backbone_of",
    "load_backbone",
    "normaliser",
    "random_backbone",
]


def load_backbone(
    name: str,
    stages: Sequence[str],
    weights: Path | Mapping[str, Tensor] | None = None,
    *,
    fold: bool = True,
) -> Trunk:
    """Build a frozen backbone in eval mode: normalised RGB (B, 3, H, W) float32 -> one map per name in ``stages``.

    The tuple of maps is in the order asked; map shapes are in ``backbone_of(name).stages``. Only the part up to the
    last tap is built and only its tensors are read. ``weights`` defaults to the registered file, digest verified; a
    path (a published-layout state dict, its origin vouched for by the caller) or a mapping of published keys to
    tensors is used as given. ``fold`` merges batch norms into convolutions (same maps to 1e-5 relative, faster).

    Raises ``ConfigError`` for an unknown backbone or stage, ``WeightsError`` for a missing, damaged or unfit file.
    """
    import torch

    from plugins.backbones.checkpoint import fill, read
    from plugins.backbones.fold import fold_batchnorm

    with torch.device("meta"):  # no initialisation that the checkpoint would overwrite at once
        trunk = _trunk(name, stages)
    if weights is None:
        weights = locate_weights(backbone_of(name).weights)
    fill(trunk, read(weights) if isinstance(weights, Path) else weights, backbone_of(name).weights.filename)
    return fold_batchnorm(trunk) if fold else trunk


def random_backbone(name: str, stages: Sequence[str], seed: int, *, fold: bool = True) -> Trunk:
    """Build as ``load_backbone`` does, with weights drawn from ``seed``: for timing and for shapes, without a file."""
    import torch

    from plugins.backbones.checkpoint import randomise
    from plugins.backbones.fold import fold_batchnorm

    with torch.device("meta"):
        trunk = _trunk(name, stages)
    randomise(trunk, seed)
    return fold_batchnorm(trunk) if fold else trunk


def normaliser(name: str, norm_std: NormStd = "imagenet") -> Normalise:
    """Build the step from pixels to the backbone's input: (B, 3 or 1, H, W) of 0..255 -> (B, 3, H, W) float32."""
    from plugins.backbones.normalise import normalise_for

    return normalise_for(backbone_of(name), norm_std)


def _trunk(name: str, stages: Sequence[str]) -> Trunk:
    from plugins.backbones.layers import Trunk

    known = backbone_of(name).stages
    if not stages or len(set(stages)) != len(stages) or not set(stages) <= set(known):
        raise ConfigError(f"backbone {name}: expected different stages of {', '.join(known)}; found {list(stages)}")
    return Trunk(_segments(name), stages)


def _segments(name: str) -> Iterator[tuple[str, nn.Module]]:
    from plugins.backbones import densenet, efficientnet, resnet, vgg

    families = {
        "efficientnet_lite0": efficientnet.lite0,
        "efficientnet_b0": efficientnet.b0,
        "densenet201": densenet.densenet201,
        "resnet18": resnet.resnet18,
        "wide_resnet50_2": resnet.wide_resnet50_2,
        "wide_resnet101_2": resnet.wide_resnet101_2,
        "vgg16": vgg.vgg16,
    }
    return families[name]()
