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

#: Side of the map it answers with.
MAP_SIDE = 16


class NothingSettings(BaseModel):
    """There is nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Detector):
    """Answers every frame with score 0, and with as many of its own pixels as the map has room for.

    The least that a living engine's map must do: differ from place to place, and from frame to frame.
    """

    name = "nothing"
    version = "1"
    settings_model = NothingSettings

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Learn nothing."""
        import numpy as np

        del references, settings, context
        ramp = np.arange(MAP_SIDE * MAP_SIDE, dtype=np.float32).reshape(1, MAP_SIDE, MAP_SIDE)
        return TemplateContent({}, {"map": ramp, "score": np.zeros(1, np.float32)}, 1, 1, (MAP_SIDE, MAP_SIDE))

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> nn.Module:
        """Return a module that adds a few pixels of the frame to the ramp in its bank."""
        import torch

        def spread(side: int) -> Tensor | slice:
            step = side // MAP_SIDE
            # A slice where it can be one: an index takes longer than all the rest.
            return slice(0, MAP_SIDE * step, step) if step else torch.arange(MAP_SIDE) * side // MAP_SIDE

        rows, columns = spread(frame_shape[0]), spread(frame_shape[1])

        class Pixels(torch.nn.Module):
            def forward(self, frames: Tensor, ramp: Tensor, zero_score: Tensor) -> tuple[Tensor, Tensor]:
                return ramp + frames[:, rows][:, :, columns, 0], zero_score

        del content
        return Pixels()

    def bank(self, content: TemplateContent) -> Mapping[str, Tensor]:
        """Return the ramp and the score it answers with."""
        import torch

        return {name: torch.from_numpy(content.tensors[name]) for name in ("map", "score")}


@hookimpl
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Bring ``nothing``."""
    register("nothing", Nothing)
