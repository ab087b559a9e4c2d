"""A detector small enough to compile in seconds, with what real ones have: convolutions, a bank at fixed capacity."""

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from edgead import Detector, TemplateContent, hookimpl
from runtime.engines.engine import Engine
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.store.template import GoldenFrame

SIDE = 8
CHANNELS = 16
CAPACITY = 6


class Settings(BaseModel):
    """``gain``: a number that goes into the graph. ``note``: a text that does not."""

    model_config = ConfigDict(extra="forbid")

    gain: float = 1.0
    note: str = ""


class Graph(nn.Module):
    """Distance of every feature to the nearest row of the bank; the score is the map's largest value."""

    def __init__(self, gain, channels):
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Conv2d(channels, CHANNELS, 3, stride=2, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
        self.activation = nn.ReLU6(inplace=True)
        self.gain = gain

    def forward(self, frames, rows):
        """Return (map [B, 8, 8], score [B])."""
        planes = frames.permute(0, 3, 1, 2).float() / 255 * self.gain
        tap = self.second(self.activation(self.first(planes)))
        tap = nn.functional.adaptive_avg_pool2d(tap, (SIDE, SIDE)).flatten(2).transpose(1, 2)
        nearest = torch.cdist(tap, rows[None], compute_mode="use_mm_for_euclid_dist").amin(2)
        return nearest.reshape(-1, SIDE, SIDE), nearest.amax(1)


class Spot(Detector):
    """Counts the graphs it builds."""

    name, version, settings_model = "spot", "1", Settings

    def __init__(self):
        self.graphs = 0

    def calibrate(self, references, settings, context):
        """Learn rows that depend on nothing but their number."""
        del references, context
        return content_of(2, **settings.model_dump())

    def graph(self, content, frame_shape):
        """Build the graph."""
        self.graphs += 1
        return Graph(content.settings["gain"], frame_shape[2])

    def bank(self, content):
        """Return the rows, the spare ones copies of the first."""
        rows = content.tensors["rows"]
        spare = np.repeat(rows[:1], content.capacity - content.valid, axis=0)
        return {"rows": torch.from_numpy(np.concatenate([rows, spare]))}


def content_of(valid, seed=0, **settings):
    """Return a template's content with ``valid`` rows."""
    rows = np.random.default_rng(seed).standard_normal((CAPACITY, CHANNELS)).astype(np.float32)[:valid]
    return TemplateContent(
        settings=Settings(**settings).model_dump(),
        tensors={"rows": rows},
        capacity=CAPACITY,
        valid=valid,
        map_shape=(SIDE, SIDE),
    )


def image(seed=0, shape=(32, 40, 3)):
    """Return a picture of noise, uint8 [H, W] for one channel, else [H, W, 3]."""
    picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return picture[:, :, 0] if shape[2] == 1 else picture


def put(store, content, shapes=((32, 40, 3), (32, 40, 3)), spoil=0.0):
    """Store a template with a golden frame a shape, as eager answers it; ``spoil`` is added to every golden map."""
    engine = Engine(Spot(), content, threads=1)
    golden = []
    for seed, shape in enumerate(shapes):
        result = engine.infer(image(seed, shape))
        golden.append(GoldenFrame(image(seed, shape), result.anomaly_map + np.float32(spoil), result.score))
    template = store.put_template(
        product="part", detector=DetectorIdentity(name="spot", version="1", distribution="edgead"),
        settings=content.settings, bank=content.tensors, capacity=content.capacity, valid=content.valid,
        map_shape=content.map_shape, golden=golden, who="test",
        thresholds=Thresholds(image=100.0, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
    )  # fmt: skip
    store.activate(template.digest, who="test")
    return template


@hookimpl
def edgead_register_detectors(register):
    """Bring ``spot``, for stations that name this module as a plugin."""
    register("spot", Spot)
