"""A detector that does nothing, as a plugin: what is left to measure is edgead itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy
from pydantic import BaseModel, ConfigDict

from runtime.detector import Detector, DetectorContext, TemplateContent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from runtime.frame import Frame

hookimpl = pluggy.HookimplMarker("edgead")

#: Side of the map of zeros it answers with.
MAP_SIDE = 16


class NothingSettings(BaseModel):
    """There is nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Detector):
    """Answers every frame with score 0 and a map of zeros."""

    name = "nothing"
    version = "1"
    settings_model = NothingSettings

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Learn nothing."""
        import numpy as np

        del references, settings, context
        zeros = {"map": np.zeros((1, MAP_SIDE, MAP_SIDE), np.float32), "score": np.zeros(1, np.float32)}
        return TemplateContent({}, zeros, 1, 1, (MAP_SIDE, MAP_SIDE))

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> nn.Module:
        """Return a module that ignores the frame and answers with copies of its bank."""
        import torch

        class Zeros(torch.nn.Module):
            def forward(self, frames: Tensor, zero_map: Tensor, zero_score: Tensor) -> tuple[Tensor, Tensor]:
                del frames
                return zero_map.clone(), zero_score.clone()

        del content, frame_shape
        return Zeros()

    def bank(self, content: TemplateContent) -> Mapping[str, Tensor]:
        """Return the zeros it answers with."""
        import torch

        return {name: torch.from_numpy(content.tensors[name]) for name in ("map", "score")}


@hookimpl
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Bring ``nothing``."""
    register("nothing", Nothing)
