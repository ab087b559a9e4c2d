"""What can be set about the CPR detectors, and the three defaults: ``cpr``, ``cpr-fast``, ``cpr-faster``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from plugins.backbones.registry import backbone_of

#: The layers compared, per backbone: strides 4 and 8 as in the paper, with Lite0, whose early layers are thin, 16 too
#: (docs/cpr.md has what it brings). All are taken before any norm or ReLU of the next layer.
DEFAULT_LAYERS: dict[str, tuple[str, ...]] = {
    "densenet201": ("features.denseblock1", "features.denseblock2"),
    "efficientnet_b0": ("features.2", "features.3"),
    "efficientnet_lite0": ("stage1", "stage2", "stage3"),
}

#: Pixels of a 320 x 320 map whose mean is the score; other sizes take the same share of the map.
SCORE_PIXELS = 512
PAPER_SIZE = 320
#: Side of the grid of blocks in which words are counted.
GRID = 5
#: Compiled engines find no more largest values than this.
MOST_SCORE_PIXELS = 3840
#: A share of a cosine.
Share = Annotated[float, Field(ge=0, le=1)]


class CprSettings(BaseModel):
    """Settings of the ``cpr`` detector: DenseNet201, 384 channels (the paper's most accurate)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    image_size: Annotated[int, Field(ge=32, le=1024)] = PAPER_SIZE
    """Frames are resized to image_size x image_size pixels; also the side of the anomaly map. Multiples of 20 divide
    into the grid of blocks without rest."""
    backbone: str = "densenet201"
    """Feature network; see `edgead weights list`."""
    layers: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """Backbone stages compared, finest first, each half the size of the one before; the first, at stride 4, also finds
    the references. "auto" = strides 4 and 8, with EfficientNet-Lite0 16 too."""
    local_width: Annotated[int, Field(ge=4, le=1024)] = 384
    """Channels of a trained local feature; without training the backbone's own are compared."""
    train: Literal["none", "budget", "full"] = "budget"
    """How local features are learnt: "budget" for two processor cores, "full" as the paper does, for a GPU; "none"
    compares the backbone's own."""
    train_steps: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    """Steps of the training; "auto" = as the plan says (docs/cpr.md). It may end earlier by its rule."""
    raw_share: Literal["auto"] | Share | Annotated[tuple[Share, ...], Field(min_length=1)] = 0.0
    """How much of a compared cosine is that of the backbone's own features, the rest is that of trained heads; 0 = the
    heads alone, as in the paper and always with a `head_file`; 1 = no head. One number, or one for each layer, finest
    first; "auto" = what tells damage best on references that training spared, 0.5 where those are too few to tell, 1
    (and no training) where there are fewer than 16 references, of which none can be spared."""
    head_file: str | None = None
    """Path of a checkpoint of the authors with trained local heads, instead of training."""
    kind: Literal["auto", "object", "texture"] = "auto"
    """What is inspected: a part before a background, or a surface that fills the frame. "auto" = an object where a
    foreground can be told from the border of the good frames."""
    foreground: Literal["auto", "on", "off"] = "auto"
    """Whether anomalies count by how much their place belongs to the part; "auto" = for objects."""
    nearest: Annotated[int, Field(ge=1, le=100)] = 10
    """References each frame is compared with, those most like it as a whole; time grows with it, not with the bank."""
    retrieval: Literal["tiled", "shifted"] = "tiled"
    """Form of the local comparison, with the same result: "tiled" multiplies matrices, "shifted" is made for compilers
    that fuse it into one loop."""
    bank_dtype: Literal["float16", "float32", "bfloat16"] = "float16"
    """Number format of local features in the bank. "bfloat16" also multiplies in it, where the processor has it: about
    twice as fast, distances off by up to 0.003; it is stored as float16."""
    network_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of backbone and local heads. "bfloat16" is two to four times as fast where the processor multiplies
    in it, and slow elsewhere; a template is only good for the format it was made with."""
    blur_sigma: Annotated[float, Field(ge=0, le=50)] = 4.0
    """Smoothing of the map in map pixels; 0 = none."""
    blur_kernel: Annotated[int, Field(ge=1, le=201)] = 33
    """Side of the smoothing kernel in map pixels, odd."""
    score_pixels: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_SCORE_PIXELS)] = "auto"
    """Pixels of the smoothed map whose mean is the image score, the largest ones; "auto" = half a percent of the map
    (512 at 320 x 320)."""
    spare: Annotated[int, Field(ge=0, le=10_000)] = 0
    """References of room kept free for ones inserted later without a new graph shape; costs memory, hardly any time."""

    @model_validator(mode="after")
    def _consistent(self) -> CprSettings:
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel: expected an odd number, found {self.blur_kernel}")
        if self.backbone not in DEFAULT_LAYERS:
            raise ValueError(f"backbone: expected one of {', '.join(DEFAULT_LAYERS)}, found {self.backbone!r}")
        stages = backbone_of(self.backbone).stages
        unknown = [name for name in self.layer_names if name not in stages]
        if unknown:
            raise ValueError(f"layers: expected stages of {', '.join(stages)}, found {', '.join(unknown)}")
        strides = [stages[name].stride for name in self.layer_names]
        if strides != [4 << level for level in range(len(strides))]:
            raise ValueError(f"layers: expected strides 4, 8, ... in this order, found {strides}")
        side = -(-self.image_size // 4)
        if -(-side // GRID) * GRID - side >= -(-side // GRID):
            raise ValueError(
                f"image_size: expected a multiple of 20, or another size whose {side} pixels at stride 4 leave none of "
                f"{GRID} x {GRID} blocks empty, found {self.image_size}"
            )
        if self.head_file is not None and self.train != "none" and "train" in self.model_fields_set:
            raise ValueError("head_file: expected train none, because the file's heads are used as they are")
        if isinstance(self.raw_share, tuple) and len(self.raw_share) != len(self.layer_names):
            raise ValueError(
                f"raw_share: expected one number or {len(self.layer_names)}, one for each layer, found "
                f"{len(self.raw_share)}"
            )
        return self

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers with "auto" resolved."""
        return DEFAULT_LAYERS[self.backbone] if self.layers == "auto" else self.layers

    @property
    def resolved(self) -> bool:
        """Tell whether nothing is left to be chosen: only then can a graph be built."""
        return isinstance(self.raw_share, tuple) and "auto" not in (
            self.layers, self.kind, self.foreground, self.score_pixels,
        )  # fmt: skip

    @property
    def raw_shares(self) -> tuple[float, ...]:
        """One ``raw_share`` for each layer, finest first; ``ValueError`` while it is "auto"."""
        if self.raw_share == "auto":
            raise ValueError("raw_share: expected numbers, found auto: training decides it")
        return self.raw_share if isinstance(self.raw_share, tuple) else (self.raw_share,) * len(self.layer_names)


class CprFastSettings(CprSettings):
    """Settings of the ``cpr-fast`` detector: as ``cpr`` with 64 channels."""

    local_width: Annotated[int, Field(ge=4, le=1024)] = 64
    """Channels of a trained local feature; without training the backbone's own are compared."""


class CprFasterSettings(CprSettings):
    """Settings of the ``cpr-faster`` detector: EfficientNet-Lite0 (the paper's is efficientnet_b0), 16 channels."""

    backbone: str = "efficientnet_lite0"
    """Feature network; see `edgead weights list`."""
    local_width: Annotated[int, Field(ge=4, le=1024)] = 16
    """Channels of a trained local feature; without training the backbone's own are compared."""
    raw_share: Literal["auto"] | Share | Annotated[tuple[Share, ...], Field(min_length=1)] = "auto"
    """How much of a compared cosine is that of the backbone's own features, the rest is that of trained heads; 0 = the
    heads alone, as in the paper and always with a `head_file`; 1 = no head. One number, or one for each layer, finest
    first; "auto" = what tells damage best on references that training spared, 0.5 where those are too few to tell, 1
    (and no training) where there are fewer than 16 references, of which none can be spared."""
    nearest: Annotated[int, Field(ge=1, le=100)] = 40
    """References each frame is compared with, those most like it as a whole; time grows with it, not with the bank.
    The paper's are 10."""


def map_shapes(settings: CprSettings) -> list[tuple[int, int]]:
    """Return (channels, side) of each compared layer's map."""
    stages = backbone_of(settings.backbone).stages
    shapes = []
    for name in settings.layer_names:
        side = -(-settings.image_size // stages[name].stride)
        if name == "features.denseblock2":  # its transition pools without padding: an odd last row is dropped
            side = -(-settings.image_size // 4) // 2
        shapes.append((stages[name].channels, side))
    return shapes


def score_pixels_of(settings: CprSettings) -> int:
    """Return how many of the map's pixels the score is the mean of."""
    pixels = settings.image_size**2
    if settings.score_pixels != "auto":
        return min(settings.score_pixels, pixels)
    return min(max(1, round(SCORE_PIXELS * pixels / PAPER_SIZE**2)), MOST_SCORE_PIXELS)
