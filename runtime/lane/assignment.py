"""What one lane inspects with: camera settings, a template, and all its worker is told at its start. Values only."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from runtime.engines.settings import EngineSettings
from runtime.lane.pipeline import MAX_IN_FLIGHT
from runtime.station.config import Camera, Station
from runtime.store.template import Template
from runtime.worker.door import ENGINE_KEYS
from runtime.worker.slots import answer_bytes


@dataclass(frozen=True)
class Assignment:
    """One lane's. ``camera``: settings with the product and detector of this lane; ``recipe``: "" for the camera's own.

    Two lanes with the same ``setup`` differ in nothing a worker knows of: one need not be replaced by the other.
    """

    name: str
    recipe: str
    camera: Camera
    station: Station
    template: Template
    builtins: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Camera and recipe."""
        return self.name, self.recipe

    @property
    def label(self) -> str:
        """The camera's name, with the recipe where it is one: for logs and messages."""
        return f"{self.name} recipe {self.recipe}" if self.recipe else self.name

    @property
    def device(self) -> str:
        """Where the worker runs, as torch names it."""
        return self.camera.device or self.station.worker.device

    @property
    def detector(self) -> str:
        """Detector, version and template in one line."""
        made_by = self.template.manifest.detector
        return f"{made_by.name} {made_by.version} with template {self.template.digest[:12]}"

    def described(self) -> dict[str, str]:
        """Return what names the worker's work in records and status."""
        made_by = self.template.manifest.detector
        return {
            "product": self.template.manifest.product,
            "detector": made_by.name,
            "detector_version": made_by.version,
            "template": self.template.digest,
        }

    @property
    def shares(self) -> bool:
        """Whether it wants to share a worker process with the other lanes that do and need the same engine."""
        return self.camera.worker == "shared"

    @property
    def engine_setup(self) -> dict[str, Any]:
        """What of ``setup`` the engine depends on: lanes that agree in it can share a worker."""
        setup = self.setup
        return {key: setup[key] for key in ENGINE_KEYS}

    def shares_with(self, other: Assignment) -> bool:
        """Tell whether one worker process serves both lanes."""
        return self.shares and other.shares and self.engine_setup == other.engine_setup

    @property
    def setup(self) -> dict[str, Any]:
        """The record a worker loads from, or takes one lane more by (see ``runtime.worker.door``).

        What a worker of one camera does not heed is the same for all of those: none need be replaced for it.
        """
        station, camera = self.station, self.camera
        engine, wait_ms = EngineSettings.of(station.worker), station.worker.batch_wait_ms
        if not self.shares:
            engine, wait_ms = replace(engine, batch=1), 0.0
        return {
            "op": "setup",
            "builtins": list(self.builtins),
            "store": str(station.store),
            "template": self.template.digest,
            "detector": camera.detector,
            "device": self.device,
            "priority": camera.priority,
            # In numbers: a worker that is held to one core while it loads (``runtime.lane.courtesy``) must not count
            # those.
            "threads": station.worker.threads or len(os.sched_getaffinity(0)),
            "engine": engine.as_json(),
            "batch_wait_ms": wait_ms,
            "shared": self.shares,
            "map": station.publish.map,
            "preview": station.publish.preview,
            "exposure": camera.exposure.model_dump() if camera.exposure else None,
            "repeat_limit": camera.repeat_limit,
            "slots": camera.queue + MAX_IN_FLIGHT,
            "frame_bytes": station.max_frame_bytes,
            "answer_bytes": answer_bytes(self.template.manifest.map_shape, preview=station.publish.preview),
        }


def assignments(
    station: Station, templates: dict[tuple[str, str], Template], builtins: tuple[str, ...]
) -> dict[tuple[str, str], Assignment]:
    """Return every lane a station has; ``templates`` by (camera, recipe)."""
    found = {}
    for name, recipe, camera in lanes_of(station):
        found[name, recipe] = Assignment(name, recipe, camera, station, templates[name, recipe], builtins)
    return found


def lanes_of(station: Station) -> list[tuple[str, str, Camera]]:
    """Return camera, recipe and settings, with the recipe's product and detector, of every lane of a station."""
    lanes = []
    for name, camera in station.cameras.items():
        lanes.append((name, "", camera))
        for recipe, each in camera.recipes.items():
            own = camera.model_copy(update={"product": each.product, "detector": each.detector})
            lanes.append((name, recipe, own))
    return lanes
