"""What can be set about HETMM, and the defaults for a new product (specification, section 9)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgead import ConfigError

#: The layers matched, per backbone: strides 4, 8 and 16 where the network has them. ResNets are tapped before the
#: stage's last ReLU.
DEFAULT_LAYERS: dict[str, tuple[str, ...]] = {
    "efficientnet_lite0": ("stage1", "stage2", "stage3"),
    "efficientnet_b0": ("features.2", "features.3"),
    "densenet201": ("features.denseblock1", "features.denseblock2"),
    "resnet18": ("layer1.pre", "layer2.pre", "layer3.pre"),
    "wide_resnet50_2": ("layer1.pre", "layer2.pre", "layer3.pre"),
    "wide_resnet101_2": ("layer1.pre", "layer2.pre", "layer3.pre"),
}

#: D0: modes and medians of the authors' tuned table, for strides 4, 8, 16.
D0_WINDOWS = ((13, 3), (9, 5), (7, 3))
D0_ALPHA = (0.5, 0.5, 0.3)
D0_WEIGHT = (1.0, 0.5, 0.5)

#: The table for EfficientNet-Lite0, whose features the authors never tuned for: a 3 x 3 forward window, the backward
#: one at the very place, every layer alike. Chosen on the simulated product (runtime.testing.product) among the tables
#: of docs/decisions/0010: the best image AUROC there.
LITE_WINDOWS = ((3, 1), (3, 1), (3, 1))
LITE_ALPHA = (0.5, 0.5, 0.5)
LITE_WEIGHT = (1.0, 1.0, 1.0)

#: What "default" and "d0" mean: setting -> one row a layer; a network with more layers repeats the last row.
D0 = {"windows": D0_WINDOWS, "alpha": D0_ALPHA, "weight": D0_WEIGHT}
DEFAULT = {"efficientnet_lite0": {"windows": LITE_WINDOWS, "alpha": LITE_ALPHA, "weight": LITE_WEIGHT}}

Choice = Literal["default", "d0", "auto"]
Side = Annotated[int, Field(ge=0, le=63)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0, le=10)]


class HetmmSettings(BaseModel):
    """Settings of the ``hetmm`` detector.

    "auto" is decided at calibration, from good frames only, and recorded in the template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    image_size: Annotated[int, Field(ge=32, le=1024)] = 256
    """Frames are resized to image_size x image_size pixels; also the side of the anomaly map."""
    backbone: str = "efficientnet_lite0"
    """Feature network; see `edgead weights list`."""
    norm_std: Literal["imagenet", "official"] = "imagenet"
    """Channel deviations frames are divided by where the backbone takes ImageNet's; "official" repeats the authors'
    slip of the green channel (section 15, 1), for parity with their figures."""
    layers: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """Backbone stages matched, finest first; "auto" = strides 4, 8 and 16."""
    windows: Choice | tuple[tuple[Side, Side], ...] = "default"
    """Per layer [forward, backward] window sides in feature pixels, odd; 0 turns the direction off. "default" = the
    backbone's table, "d0" = the fixed defaults of section 9.1, "auto" = chosen from good frames (section 9.2)."""
    alpha: Choice | tuple[Share, ...] = "default"
    """Per layer share of the forward distance in the mix."""
    weight: Choice | tuple[Weight, ...] = "default"
    """Per layer weight in the sum (lambda in the paper)."""
    blur_sigma: Annotated[float, Field(ge=0, le=50)] = 4.0
    """Smoothing of the published map in map pixels; 0 = none."""
    blur_kernel: Annotated[int, Field(ge=1, le=201)] = 33
    """Side of the smoothing kernel in map pixels, odd."""
    score: Literal["top_mean", "max", "smoothed_max"] = "top_mean"
    """Image score: mean of the largest values of the unsmoothed map, its largest value (specification), or the largest
    one of the smoothed map."""
    score_pixels: Annotated[int, Field(ge=1, le=3840)] = 16
    """Map pixels that "top_mean" takes: by default as many as one feature pixel at stride 4 covers, at any size."""
    bank_dtype: Literal["float16", "float32"] = "float16"
    """Number format of the bank, stored and in memory; arithmetic is float32 either way."""
    templates: Literal["all", "pts"] = "all"
    """What a template keeps: every reference ("all"), or for each feature pixel the `sheets` most telling vectors of
    all references ("pts", section 10). No more references than sheets: all are kept."""
    sheets: Annotated[int, Field(ge=2, le=1000)] = 60
    """Sheets a "pts" template keeps: matching time and memory grow with it, not with the number of references."""
    easy: Literal["optics", "medoid"] = "optics"
    """How "pts" finds the first, typical sheets: centres of density clusters (section 11), or the one medoid."""
    hard: Literal["max", "sum"] = "max"
    """How "pts" finds the rest, farthest first: smallest largest similarity to those taken (the classical rule), or
    smallest sum of similarities (the paper's)."""
    spare: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Sheets of room an "all" template keeps free for references inserted later without a new graph shape; each costs
    matching time. A "pts" template never grows."""

    @model_validator(mode="after")
    def _consistent(self) -> HetmmSettings:
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel: expected an odd number, found {self.blur_kernel}")
        if self.backbone not in DEFAULT_LAYERS:
            raise ValueError(f"backbone: expected one of {', '.join(DEFAULT_LAYERS)}, found {self.backbone!r}")
        count = len(self.layer_names)
        for name in ("windows", "alpha", "weight"):
            value = getattr(self, name)
            if not isinstance(value, str) and len(value) != count:
                raise ValueError(f"{name}: expected one entry for each of {count} layers, found {len(value)}")
        if not isinstance(self.windows, str):
            for pair in self.windows:
                if any(side and side % 2 == 0 for side in pair) or pair == (0, 0):
                    raise ValueError(f"windows: expected odd sides, or 0 for one direction, found {list(pair)}")
        return self

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers with "auto" resolved."""
        return DEFAULT_LAYERS[self.backbone] if self.layers == "auto" else self.layers

    @property
    def resolved(self) -> bool:
        """Tell whether nothing is left to be chosen: only then can a graph be built."""
        return not any(isinstance(getattr(self, name), str) for name in ("layers", "windows", "alpha", "weight"))


def table_row(settings: HetmmSettings, name: str) -> tuple:
    """Return what "default" or "d0" means for setting ``name``: one value a layer, the table's last one repeated."""
    table = D0 if getattr(settings, name) == "d0" else DEFAULT.get(settings.backbone, D0)
    rows = table[name]
    return tuple(rows[min(layer, len(rows) - 1)] for layer in range(len(settings.layer_names)))


def windows_of(settings: HetmmSettings) -> tuple[tuple[int, int], ...]:
    """Return the [forward, backward] window sides per layer; ``ConfigError`` while they are still to be chosen."""
    if isinstance(settings.windows, str):
        raise ConfigError(f"hetmm: expected windows in numbers, found {settings.windows!r}: calibrate chooses them")
    return settings.windows


def halves(window: tuple[int, int]) -> tuple[int | None, int | None]:
    """Return (df, db) half-widths of a window pair, None for a direction that is off: 13 -> 6, 1 -> 0, 0 -> None."""
    ahead, back = (None if side == 0 else side // 2 for side in window)
    return ahead, back
