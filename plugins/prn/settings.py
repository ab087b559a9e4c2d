"""What can be set about the PRN detector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from plugins.backbones.registry import backbone_of

#: The layers used, per backbone: strides 4, 8 and 16, whose maps are compared with prototypes, and 32, which is not.
LAYERS: dict[str, tuple[str, str, str, str]] = {
    "efficientnet_lite0": ("stage1", "stage2", "stage3", "stage4"),
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
}
#: Strides of those layers.
STRIDES = (4, 8, 16, 32)
#: Scales that are compared with prototypes.
SCALES = 3
#: Patches of the smallest size must fill the coarsest of those maps: image sizes are multiples of 16 x 8.
MULTIPLE = 128
#: Pixels of a 256 x 256 map whose mean is the score; other sizes take the same share of the map.
SCORE_PIXELS, PAPER_SIZE = 100, 256
#: Compiled engines find no more largest values than this.
MOST_SCORE_PIXELS = 3840


class PrnSettings(BaseModel):
    """Settings of the ``prn`` detector; the defaults are the small network, which two processor cores can train."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    image_size: Annotated[int, Field(ge=MULTIPLE, le=1024, multiple_of=MULTIPLE)] = PAPER_SIZE
    """Frames are resized to image_size x image_size pixels; also the side of the anomaly map; a multiple of 128."""
    backbone: str = "efficientnet_lite0"
    """Frozen feature network: efficientnet_lite0, or the paper's resnet18; see `edgead weights list`."""
    width: Annotated[int, Field(ge=4, le=256, multiple_of=4)] = 12
    """Channels of the finest scale; the coarser ones have 2, 4 and 8 times as many. 64 with resnet18 is the paper's,
    any other number reduces the backbone's channels first."""
    blocks: Annotated[int, Field(ge=1, le=6)] = 1
    """Attention blocks one after the other at each scale; 3 in the paper's network."""
    attn_scale: Literal["sqrt", "linear"] = "sqrt"
    """What attention products are divided by: the root of the token's length, or the length itself as the unofficial
    code has it (attention is then next to a mean)."""
    share_fuser: bool = True
    """Whether features and residuals are fused by the same weights."""
    prototype_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Prototypes of a scale, as a share of the references; at least one."""
    most_prototypes: Annotated[int, Field(ge=1, le=1000)] = 64
    """Prototypes of a scale that calibration learns, at most; frames inserted later may add some. Memory and a little
    time grow with them."""
    kind: Literal["auto", "object", "texture"] = "auto"
    """What is inspected: a part before a background, or a surface that fills the frame; decides which synthetic defects
    it is trained on. "auto" = an object where a foreground can be told from the good frames."""
    train: Literal["budget", "full"] = "budget"
    """How the network is trained: "budget" for two processor cores, "full" as the paper does, for a GPU."""
    train_steps: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    """Steps of the training; "auto" = as the plan says (docs/prn.md). It may end earlier by its rule."""
    score_pixels: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_SCORE_PIXELS)] = "auto"
    """Pixels of the map whose mean is the image score, the largest ones; "auto" = 100 at 256 x 256."""
    spare: Annotated[int, Field(ge=0, le=1000)] = 4
    """Prototypes of room kept free for ones inserted later without a new graph shape; costs memory."""

    @model_validator(mode="after")
    def _consistent(self) -> PrnSettings:
        if self.backbone not in LAYERS:
            raise ValueError(f"backbone: expected one of {', '.join(LAYERS)}, found {self.backbone!r}")
        return self

    @property
    def layer_names(self) -> tuple[str, str, str, str]:
        """The backbone's stages, finest first; the last one is not compared."""
        return LAYERS[self.backbone]

    @property
    def resolved(self) -> bool:
        """Tell whether nothing is left to be chosen: only then can a graph be built."""
        return "auto" not in (self.kind, self.score_pixels)


def map_shapes(settings: PrnSettings) -> list[tuple[int, int]]:
    """Return (channels, side) of the four layers' maps."""
    stages = backbone_of(settings.backbone).stages
    return [
        (stages[name].channels, settings.image_size // stride)
        for name, stride in zip(settings.layer_names, STRIDES, strict=True)
    ]


def widths_of(settings: PrnSettings) -> tuple[int, int, int, int]:
    """Return the channels the network works with at the four scales: w, 2w, 4w, 8w."""
    width = settings.width
    return width, 2 * width, 4 * width, 8 * width


def score_pixels_of(settings: PrnSettings) -> int:
    """Return how many of the map's pixels the score is the mean of."""
    pixels = settings.image_size**2
    if settings.score_pixels != "auto":
        return min(settings.score_pixels, pixels)
    return min(max(1, round(SCORE_PIXELS * pixels / PAPER_SIZE**2)), MOST_SCORE_PIXELS)
