"""A plugin with one sound detector and ones that break a single promise each; loaded by the kit's own process only."""

import functools
import importlib
import os
import time

import numpy as np
from pydantic import BaseModel, ConfigDict

from edgead import ConfigError, Detector, TemplateContent, hookimpl

SIDE = 16


class Settings(BaseModel):
    """Nothing to set but the spread below which a spot counts as quiet."""

    model_config = ConfigDict(extra="forbid")

    least_spread: float = 4.0


class Sound(Detector):
    """Keeps every promise."""

    name = "sound"
    version = "1"
    settings_model = Settings
    module = "Graph"

    def calibrate(self, references, settings, context):
        """Learn mean and spread."""
        import torch
        from broken_graphs import spots

        del context
        if not references:
            raise ConfigError("sound: expected at least one good frame, found none")
        pictures = []
        for reference in references:
            image = reference.image if reference.image.ndim == 3 else reference.image[:, :, None]
            pictures.append(spots(torch.from_numpy(image)[None])[0].numpy())
        mean = np.mean(pictures, axis=0, dtype=np.float32)
        spread = np.maximum(np.std(pictures, axis=0), settings.least_spread).astype(np.float32)
        count = len(pictures)
        return TemplateContent(settings.model_dump(), {"mean": mean, "spread": spread}, count, count, (SIDE, SIDE))

    def graph(self, content, frame_shape):
        """Build the graph."""
        del content, frame_shape
        return getattr(importlib.import_module("broken_graphs"), self.module)()

    def bank(self, content):
        """Return mean and spread."""
        import torch

        return {name: torch.from_numpy(content.tensors[name]) for name in ("mean", "spread")}


class SmallMap(Sound):
    """Promises another map size than its graph gives."""

    name = "small-map"
    module = "SmallMapGraph"


class Restless(Sound):
    """Draws a random subset of its references, from nobody's seed."""

    name = "restless"

    def calibrate(self, references, settings, context):
        """Learn from half of the references."""
        if not references:
            raise ConfigError("restless: expected at least one good frame, found none")
        chosen = np.random.default_rng().random(len(references)) + 0.5
        content = super().calibrate(references, settings, context)
        content.tensors["mean"] *= np.float32(chosen.mean())
        return content


class Noisy(Sound):
    """Draws random numbers while it inspects."""

    name = "noisy"
    module = "NoisyGraph"


class Endless(Sound):
    """Repeats until its references differ: on constant ones, for ever."""

    name = "endless"

    def calibrate(self, references, settings, context):
        """Learn once there is a spread."""
        content = super().calibrate(references, settings, context)
        while len(references) > 1 and content.tensors["spread"].max() <= settings.least_spread:
            time.sleep(1)
        return content


class Leaky(Sound):
    """Keeps its frames."""

    name = "leaky"
    module = "LeakyGraph"


class Branching(Sound):
    """Cannot be exported."""

    name = "branching"
    module = "BranchingGraph"


class ColourOnly(Sound):
    """Raises on grey images."""

    name = "colour-only"
    module = "ColourGraph"


class Crashing(Sound):
    """Ends the process as a driver's fault does, when it meets an empty list."""

    name = "crashing"

    def calibrate(self, references, settings, context):
        """Learn, or die."""
        if not references:
            os._exit(3)
        return super().calibrate(references, settings, context)


@hookimpl
def edgead_register_detectors(register):
    """Bring them all."""
    for detector in (Sound, SmallMap, Restless, Noisy, Endless, Leaky, Branching, ColourOnly, Crashing):
        register(detector.name, functools.partial(detector))
