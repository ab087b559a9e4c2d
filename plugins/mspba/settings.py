"""What can be set about the ``mspba`` detector, and where each backbone is tapped for its three sizes of patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from plugins.backbones.registry import backbone_of

#: Sides of the patches in pixels of the resized frame, the order of everything that has a scale.
SIDES = (64, 32, 16)
PAPER_SIZE = 256


@dataclass(frozen=True)
class Scale:
    """Patches of one size: ``side`` and grid ``step`` in pixels, backbone ``tap`` of ``channels`` at ``stride``.

    ``context``: pixels beyond a patch that its features see, rounded up to whole strides of every tap; what a crop must
    be enlarged by on each side to have the features of the whole frame.
    """

    side: int
    step: int
    tap: str
    channels: int
    stride: int
    context: int

    @property
    def window(self) -> int:
        """Side of a patch on the tap's map."""
        return self.side // self.stride

    def grid(self, size: int) -> int:
        """Return the patches along a side of a frame of ``size`` pixels."""
        return 1 + (size - self.side) // self.step


#: Per backbone and side: (tap, grid step, context). VGG-16 as published; EfficientNet-Lite0 (ours) has few channels at
#: fine strides and is tapped deeper: untrained, that told mtd's and cookies' defects better than strides 4 and 2.
_TAPS: dict[str, dict[int, tuple[str, int, int]]] = {
    "vgg16": {64: ("features.29", 16, 96), 32: ("features.15", 4, 32), 16: ("features.8", 4, 16)},
    "efficientnet_lite0": {64: ("stage3", 16, 176), 32: ("stage3.half", 16, 80), 16: ("stage2", 8, 48)},
}


class MspbaSettings(BaseModel):
    """Settings of the ``mspba`` detector."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    image_size: Annotated[int, Field(ge=192, le=512, multiple_of=16)] = PAPER_SIZE
    """Frames are resized to image_size x image_size pixels; also the side of the anomaly map. A multiple of 16, of at
    least 192, so that two patches of 64 pixels and the way between them fit."""
    backbone: Literal["efficientnet_lite0", "vgg16"] = "efficientnet_lite0"
    """Feature network; vgg16 is the paper's, whose weights are to be fetched (`edgead weights list`)."""
    train: Literal["none", "budget", "full"] = "none"
    """How patches are encoded: "none" averages the backbone's features over each patch; "budget" trains heads on them,
    for two processor cores; "full" trains the backbone too, as the authors do, for a GPU."""
    train_steps: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000_000)] = "auto"
    """Steps of the training; "auto" = as the plan says (docs/mspba.md). It may end earlier by its rule."""
    mode: Literal["dense", "patch"] = "dense"
    """How a frame's patches are encoded: "dense" runs the backbone once over the frame, "patch" cuts every patch and
    encodes it alone, as published: forty times the work, for comparison."""
    normalisation: Literal["auto", "backbone", "mean"] = "auto"
    """Network input: "mean" = (pixel - mean image of the references) / 255, as published; "backbone" = as the backbone
    was trained with. "auto" = mean for vgg16, backbone otherwise."""
    dimension: Annotated[int, Field(ge=4, le=512)] = 64
    """Numbers of a trained patch embedding."""
    similarity_weight: Annotated[float, Field(ge=0, le=10)] = 1e-3
    """Weight of the similarity loss beside the position loss; too much collapses the embedding to a constant."""
    cluster_weight: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Weight of the distance to the nearest of a few cluster centres; 0 = off, as the authors' code works out."""
    parity: bool = False
    """Repeat the slips of the authors' training: patches clipped at the border with a wrong label, the classifier's
    last layer fixed, backbone updated three times as fast. Only for train full."""
    bank_rows: Annotated[int, Field(ge=16, le=200_000)] = 4096
    """Embeddings kept of each scale, chosen to cover those of all references; time grows with it."""
    spare_rows: Annotated[int, Field(ge=0, le=100_000)] = 256
    """Rows of each scale kept free for references inserted later without a new graph shape."""
    balance: bool = True
    """Divide each scale's map by its mean over held-out references before adding; off = plain sum, as published."""

    @model_validator(mode="after")
    def _consistent(self) -> MspbaSettings:
        if self.parity and self.train != "full":
            raise ValueError("parity: expected train full, whose slips it repeats")
        if self.cluster_weight and self.train == "none":
            raise ValueError("cluster_weight: expected a training, found train none")
        return self

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The three scales, largest patches first."""
        stages = backbone_of(self.backbone).stages
        found = []
        for side in SIDES:
            tap, step, context = _TAPS[self.backbone][side]
            found.append(Scale(side, step, tap, *stages[tap], context if self.mode == "dense" else 0))
        return tuple(found)

    @property
    def taps(self) -> tuple[str, ...]:
        """The backbone's taps, in the order of the scales."""
        return tuple(scale.tap for scale in self.scales)

    @property
    def subtracts_mean(self) -> bool:
        """Tell whether the input is the difference from the mean image."""
        return self.normalisation == "mean" or (self.normalisation == "auto" and self.backbone == "vgg16")

    @property
    def width(self) -> tuple[int, ...]:
        """Numbers of an embedding at each scale: ``dimension``, or the tap's channels without training."""
        return tuple(scale.channels if self.train == "none" else self.dimension for scale in self.scales)
