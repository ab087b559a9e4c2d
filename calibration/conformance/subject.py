"""The detector under check, with what several promises are checked on: learnt once, when it is asked for first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from torch.export import ExportedProgram

from calibration.calibrate import CalibrationOptions, learn
from calibration.conformance.outcomes import BrokenError
from calibration.conformance.pictures import HEIGHT, WIDTH, Pictures
from calibration.jobs.checks import chosen_settings
from calibration.references import References
from runtime.detector import Detector, DetectorContext, DetectorResult, TemplateContent
from runtime.disk import canonical
from runtime.engines.engine import Engine, export
from runtime.registry import Registry

#: Threads for everything here: the kit shares its machine, and small pictures are done before a second one wakes up.
THREADS = 1
#: Any number but 0, so that a detector which ignores the seed it is given is not right by chance.
SEED = 7
SHAPE = (HEIGHT, WIDTH, 3)


class Subject:
    """One detector with the settings it is checked with; ``folder`` takes pictures and stores."""

    def __init__(
        self, registry: Registry, name: str, folder: Path, *, settings: list[str], preset: str | None, frames: int
    ) -> None:
        self.registry, self.name, self.folder, self.frames = registry, name, folder, frames
        self.assignments, self.preset = settings, preset
        self.pictures = Pictures(folder / "pictures")
        self.options = CalibrationOptions(threads=THREADS, seed=SEED)

    def fresh(self) -> Detector:
        """Return a detector object nobody has used."""
        return self.registry.detector(self.name)

    @cached_property
    def detector(self) -> Detector:
        """The detector object that most promises share, as a station's worker does."""
        return self.fresh()

    @cached_property
    def settings(self) -> BaseModel:
        """Defaults, then the preset, then what was set."""
        return chosen_settings(self.detector, self.preset, self.assignments)

    def learn(
        self, references: References, settings: BaseModel | None = None, detector: Detector | None = None
    ) -> TemplateContent:
        """Calibrate; by default with the settings and the object everything shares."""
        chosen = settings or self.settings
        return learn(detector or self.detector, references, chosen, self.options, lambda *_: None)

    @cached_property
    def content(self) -> TemplateContent:
        """The template of the good references."""
        return self.learn(self.pictures.good)

    @cached_property
    def other(self) -> TemplateContent:
        """Another version: as many other references, with the settings the first one resolved."""
        try:
            resolved = self.detector.settings_model.model_validate(dict(self.content.settings))
        except ValidationError as error:
            raise BrokenError(
                f"the settings of its own template are refused by settings_model: {error.errors()[0]['msg']}",
                "let settings_model take everything that calibrate resolves",
            ) from error
        return self.learn(self.pictures.others, resolved)

    @cached_property
    def longer(self) -> TemplateContent | None:
        """The template with the new references inserted; None where the detector cannot."""
        context = DetectorContext(seed=SEED)
        return self.detector.extend(self.content, self.pictures.new, context)

    @cached_property
    def engine(self) -> Engine:
        """What inspects frames with the template, eagerly."""
        return self.engine_of(self.content)

    def engine_of(self, content: TemplateContent, detector: Detector | None = None) -> Engine:
        """Return an engine of its own for ``content``."""
        return Engine(detector or self.detector, content, threads=THREADS)

    @cached_property
    def program(self) -> ExportedProgram:
        """The graph for frames of ``SHAPE``, exported strictly."""
        return self.exported(self.content)

    def exported(self, content: TemplateContent) -> ExportedProgram:
        """Export the graph of ``content`` for frames of ``SHAPE``."""
        return export(self.detector, content, SHAPE)

    def frame(self, number: int = 60) -> np.ndarray:
        """Return a good part no template has seen, uint8 RGB ``SHAPE``."""
        return self.pictures.part(number)


def same_bits(one: DetectorResult, two: DetectorResult) -> bool:
    """Tell whether two answers are equal to the last bit."""
    return one.score == two.score and np.array_equal(one.anomaly_map, two.anomaly_map)


def digest_content(content: TemplateContent) -> str:
    """Return the sha256 of everything a template keeps of ``content``, pool and statistics included."""
    digest = hashlib.sha256(
        canonical.encode({
            "settings": dict(content.settings), "weights": dict(content.weights),
            "statistics": dict(content.statistics), "capacity": content.capacity, "valid": content.valid,
            "map_shape": list(content.map_shape),
        })
    )  # fmt: skip
    for arrays in (content.tensors, content.pool):
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def bits_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the sha256 of every tensor's values by name."""
    return {
        name: hashlib.sha256(each.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, each in tensors.items()
    }
