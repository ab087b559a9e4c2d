"""Runs a detector's graph on one frame after another: uint8 image in, checked map and score out.

The offline evaluation and the worker use this same call, so a score on the line is the score of the evaluation. Only
the ``eager`` backend exists so far; it is the reference that compiled ones will be compared with.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from runtime.detector import Detector, DetectorResult, TemplateContent
from runtime.errors import ConfigError, PluginError

#: Graphs kept, one per frame shape. A station has one shape; a folder of mixed sizes makes a new graph cheaply.
MAX_GRAPHS = 4


class ResultError(PluginError):
    """A detector answered with something that is not a finite map of the promised shape and a finite score."""


class Engine:
    """One detector with one template's content, ready to inspect frames of any shape.

    ``device``: torch device string. ``threads``: CPU threads for the process, 0 = one per core.
    """

    def __init__(self, detector: Detector, content: TemplateContent, *, device: str = "cpu", threads: int = 0) -> None:
        self.device = _device(device)
        self._on_cpu = self.device.type == "cpu"
        use_threads(threads)
        self.detector = detector
        self.content = content
        self._bank = {name: tensor.to(self.device) for name, tensor in detector.bank(content).items()}
        self._graphs: OrderedDict[tuple[int, int, int], torch.nn.Module] = OrderedDict()

    @property
    def bank(self) -> Mapping[str, torch.Tensor]:
        """The graph's template inputs on the engine's device."""
        return self._bank

    def infer(self, image: np.ndarray, bank: Mapping[str, torch.Tensor] | None = None) -> DetectorResult:
        """Inspect one image, uint8 [H, W] or [H, W, 3] RGB; ``bank`` replaces the engine's own (leave-one-out scoring).

        Raises ``ResultError`` when the answer is not finite or not of the promised shape. Whoever inspects many small
        frames enters ``torch.inference_mode`` once around them: entering takes as long as a small graph.
        """
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self.infer(image, bank)
        frame = image[:, :, None] if image.ndim == 2 else image  # noqa: PLR2004 - grey has no channel axis
        graph = self._graph(frame.shape)
        # from_numpy shares memory: the frame goes from the slot into the graph uncopied.
        batch = torch.from_numpy(frame[None])
        if not self._on_cpu:
            batch = batch.to(self.device)
        anomaly_map, score = graph(batch, *(self._bank if bank is None else bank).values())
        return self._checked(anomaly_map, score)

    def _graph(self, shape: tuple[int, ...]) -> torch.nn.Module:
        height, width, channels = shape
        key = (height, width, channels)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self.detector.graph(self.content, key).eval().to(self.device)
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return graph

    def _checked(self, anomaly_map: Any, score: Any) -> DetectorResult:
        expected = (1, *self.content.map_shape)
        shapes = getattr(anomaly_map, "shape", ()), getattr(score, "shape", ())
        if shapes != (expected, (1,)):  # torch's shapes are tuples
            raise ResultError(
                self.detector.name,
                f"expected a map of shape {expected} and a score of (1,), found {tuple(shapes[0])}, {tuple(shapes[1])}",
            )
        result = DetectorResult(anomaly_map.to("cpu", torch.float32).numpy()[0], float(score.item()))
        if not (math.isfinite(result.score) and np.isfinite(result.anomaly_map).all()):
            raise ResultError(self.detector.name, f"score {result.score} or a map value is not finite")
        return result


def export(
    detector: Detector, content: TemplateContent, frame_shape: tuple[int, int, int]
) -> torch.export.ExportedProgram:
    """Capture the detector's whole graph for one frame shape (H, W, C): strict, batch 1, bank tensors as inputs."""
    graph = detector.graph(content, frame_shape).eval()
    example = torch.zeros((1, *frame_shape), dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(graph, (example, *detector.bank(content).values()), strict=True)


def use_threads(count: int) -> None:
    """Let torch use ``count`` CPU threads in this process; 0 = one per core this process may use."""
    torch.set_num_threads(count or available_cores())


def available_cores() -> int:
    """Count the CPU cores this process may use (respects affinity and containers' cpusets)."""
    return len(os.sched_getaffinity(0))


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"expected a CUDA device for {name!r}, found none: set worker.device to cpu, "
            "or install the driver and a CUDA build of torch"
        )
    return device
