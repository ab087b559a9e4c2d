"""The ``brightness`` detector: how far each spot is from its brightness on good parts, in standard deviations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from edgead import ConfigError, Detector, DetectorContext, Frame, TemplateContent, hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn


class BrightnessSettings(BaseModel):
    """Settings of the ``brightness`` detector."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Side of the anomaly map; frames are averaged down to map_side x map_side spots.
    map_side: Annotated[int, Field(ge=8, le=512)] = 64
    #: Spots averaged around each spot, odd: forgives parts that lie a little off.
    blur_spots: Annotated[int, Field(ge=1, le=31)] = 5
    #: Smallest standard deviation of a spot in grey levels of 255, so that a dark corner's noise is no defect.
    smallest_spread: Annotated[float, Field(gt=0, le=255)] = 4.0

    @field_validator("blur_spots")
    @classmethod
    def _odd(cls, spots: int) -> int:
        if spots % 2 == 0:
            raise ValueError(f"expected an odd number of spots, found {spots}")
        return spots


class BrightnessDetector(Detector):
    """Mean and standard deviation of every spot over the references; the anomaly map is the distance from the mean."""

    name = "brightness"
    version = "1"
    settings_model = BrightnessSettings

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Keep every reference's spots: float32 [references, map_side, map_side], grey levels."""
        if len(references) < 2:  # one frame has no spread
            raise ConfigError(f"brightness: expected at least two good frames, found {len(references)}: add references")
        wanted = cast("BrightnessSettings", settings)
        side = wanted.map_side
        return TemplateContent(
            settings=wanted.model_dump(mode="json"),
            tensors={"spots": _spots_of(references, wanted, context)},
            capacity=len(references),
            valid=len(references),
            map_shape=(side, side),
        )

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> nn.Module:
        """Return the module for any frame shape: nothing in it depends on one."""
        from brightness_detector.graph import BrightnessGraph

        del frame_shape
        settings = _settings(content)
        return BrightnessGraph(settings.map_side, settings.blur_spots)

    def bank(self, content: TemplateContent) -> Mapping[str, Tensor]:
        """Return ``mean`` and ``spread``, float32 [map_side, map_side] each, whatever the number of references."""
        return _statistics(content.tensors["spots"], _settings(content))

    def leave_out(
        self, content: TemplateContent, bank: Mapping[str, Tensor], index: int
    ) -> Mapping[str, Tensor] | None:
        """Return the statistics of the other references, or None when fewer than two are left."""
        rest = np.delete(content.tensors["spots"], index, axis=0)
        if len(rest) < 2:
            return None
        device = bank["mean"].device
        return {name: tensor.to(device) for name, tensor in _statistics(rest, _settings(content)).items()}

    def extend(
        self, content: TemplateContent, references: Sequence[Frame], context: DetectorContext
    ) -> TemplateContent:
        """Append the new references' spots: the same content as a calibration on all of them."""
        added = _spots_of(references, _settings(content), context)
        spots = np.concatenate([content.tensors["spots"], added])
        return TemplateContent(
            settings=content.settings,
            tensors={"spots": spots},
            capacity=len(spots),
            valid=len(spots),
            map_shape=content.map_shape,
        )


def _settings(content: TemplateContent) -> BrightnessSettings:
    return BrightnessSettings.model_validate(dict(content.settings))


def _spots_of(references: Sequence[Frame], settings: BrightnessSettings, context: DetectorContext) -> np.ndarray:
    """Return the spots of all references, float32 [references, map_side, map_side]."""
    import torch

    from brightness_detector.graph import Spots

    measure = Spots(settings.map_side, settings.blur_spots).to(context.device)
    spots = np.empty((len(references), settings.map_side, settings.map_side), np.float32)
    for index, reference in enumerate(references):  # one at a time: references are read from disk when asked for
        image = reference.image if reference.image.ndim == 3 else reference.image[:, :, None]
        with torch.inference_mode():
            spots[index] = measure(torch.from_numpy(image)[None].to(context.device))[0].cpu().numpy()
        context.progress(index + 1, len(references), "measuring references")
    return spots


def _statistics(spots: np.ndarray, settings: BrightnessSettings) -> dict[str, Tensor]:
    import torch

    spread = np.maximum(spots.std(axis=0, ddof=1), np.float32(settings.smallest_spread))
    return {"mean": torch.from_numpy(spots.mean(axis=0)), "spread": torch.from_numpy(spread)}


@hookimpl
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Bring ``brightness``."""
    register("brightness", BrightnessDetector)
