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
    layers: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """Backbone stages matched, finest first; "auto" = strides 4, 8 and 16."""
    windows: Literal["auto", "d0"] | tuple[tuple[Side, Side], ...] = "auto"
    """Per layer [forward, backward] window sides in feature pixels, odd; 0 turns the direction off. "auto" = chosen
    from good frames (section 9.2), "d0" = the fixed defaults of section 9.1."""
    alpha: Literal["auto", "d0"] | tuple[Share, ...] = "d0"
    """Per layer share of the forward distance in the mix."""
    weight: Literal["auto", "d0"] | tuple[Weight, ...] = "d0"
    """Per layer weight in the sum (lambda in the paper)."""
    blur_sigma: Annotated[float, Field(ge=0, le=50)] = 4.0
    """Smoothing of the published map in map pixels; 0 = none."""
    blur_kernel: Annotated[int, Field(ge=1, le=201)] = 33
    """Side of the smoothing kernel in map pixels, odd."""
    score: Literal["max", "smoothed_max"] = "max"
    """Image score: largest value of the unsmoothed map (specification), or of the smoothed one."""
    bank_dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored bank; arithmetic is float32 either way."""
    spare: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Sheets of room kept free for references inserted later without a new graph shape; each costs matching time."""

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


def d0_row(table: tuple, count: int) -> tuple:
    """Return the first ``count`` rows of a D0 table, its last one repeated for networks with more layers."""
    return tuple(table[min(layer, len(table) - 1)] for layer in range(count))


def windows_of(settings: HetmmSettings) -> tuple[tuple[int, int], ...]:
    """Return the [forward, backward] window sides per layer; ``ConfigError`` while they are still to be chosen."""
    if isinstance(settings.windows, str):
        raise ConfigError(f"hetmm: expected windows in numbers, found {settings.windows!r}: calibrate chooses them")
    return settings.windows


def halves(window: tuple[int, int]) -> tuple[int | None, int | None]:
    """Return (df, db) half-widths of a window pair, None for a direction that is off: 13 -> 6, 1 -> 0, 0 -> None."""
    ahead, back = (None if side == 0 else side // 2 for side in window)
    return ahead, back
