"""Runs a detector's graph on one frame after another: uint8 image in, checked map and score out.

The offline evaluation and the worker use this same call, so a score on the line is the score of the evaluation. The
eager graph is the reference; a program compiled from it (``runtime.engines``) stands in for it where one is given and
has passed the parity gate.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from runtime.detector import Detector, DetectorResult, TemplateContent
from runtime.engines.program import Layout, Program
from runtime.engines.shapes import Shape
from runtime.engines.staging import Staging
from runtime.engines.target import available_cores as available_cores
from runtime.errors import ConfigError, PluginError

log = logging.getLogger("edgead.worker")

#: Graphs kept, one per frame shape. A station has one shape; a folder of mixed sizes makes a new graph cheaply.
MAX_GRAPHS = 4


class ResultError(PluginError):
    """A detector answered with something that is not a finite map of the promised shape and a finite score."""


class Engine:
    """One detector with one template's content, ready to inspect frames of any shape.

    ``device``: torch device string. ``threads``: CPU threads for the process, 0 = one per core. ``programs``: compiled
    ones by frame shape (H, W, C); frames of any other shape go through the eager graph.
    """

    def __init__(
        self,
        detector: Detector,
        content: TemplateContent,
        *,
        device: str = "cpu",
        threads: int = 0,
        programs: Mapping[Shape, Program] | None = None,
    ) -> None:
        self.device = _device(device)
        self._on_cpu = self.device.type == "cpu"
        use_threads(threads)
        self.detector = detector
        self.content = content
        self._bank = {name: tensor.to(self.device) for name, tensor in detector.bank(content).items()}
        self._owns_bank = not self._on_cpu
        self._staging = None if self._on_cpu else Staging(self.device)
        self._programs = dict(programs or {})
        self._graphs: OrderedDict[Shape, torch.nn.Module] = OrderedDict()

    @property
    def bank(self) -> Mapping[str, torch.Tensor]:
        """The graph's template inputs on the engine's device."""
        return self._bank

    def take_bank(self, content: TemplateContent) -> None:
        """Answer from another version's bank from now on: its values are copied to where the old ones lie.

        Nothing is compiled, and a captured program, which holds on to its inputs' addresses, sees the new bank. Not
        while another thread is inside ``infer``. Raises ``ConfigError``, the old bank in place, where shape, dtype,
        settings, weights or map differ: that takes an engine of its own. So does another training: what a detector
        learnt into its graph is not looked at here. Only ``extend`` keeps it; a worker chooses by the program's key.
        """
        bank = self.detector.bank(content)
        same = _kept_by_extend(content) == _kept_by_extend(self.content)
        if not same or {n: Layout.of(t) for n, t in bank.items()} != {n: Layout.of(t) for n, t in self._bank.items()}:
            raise ConfigError(
                f"detector {self.detector.name!r}: expected a bank of the same capacity, settings, weights and map, "
                "found another layout: load it beside this one"
            )
        with torch.inference_mode():
            if not self._owns_bank:  # on a CPU it lies in the first version's own arrays until now
                self._bank = {name: tensor.clone() for name, tensor in self._bank.items()}
                self._owns_bank = True
            for name, tensor in bank.items():
                self._bank[name].copy_(tensor)
        self.content = content

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
        if self._staging is not None:
            batch = self._staging.upload(batch)
        anomaly_map, score = graph(batch, *(self._bank if bank is None else bank).values())
        return self._checked(anomaly_map, score)

    def _graph(self, shape: tuple[int, ...]) -> Program:
        height, width, channels = shape
        key = (height, width, channels)
        program = self._programs.get(key)
        if program is not None:
            return program
        graph = self._graphs.get(key)
        if graph is None:
            if self._programs:
                log.warning("no engine was built for frames of %s: they are inspected eagerly", key)
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
        if self._staging is not None:
            anomaly_map, score = self._staging.download(anomaly_map, score)
        result = DetectorResult(anomaly_map.to("cpu", torch.float32).numpy()[0], float(score.item()))
        if not (math.isfinite(result.score) and np.isfinite(result.anomaly_map).all()):
            raise ResultError(self.detector.name, f"score {result.score} or a map value is not finite")
        return result


def export(
    detector: Detector, content: TemplateContent, frame_shape: tuple[int, int, int], batch: int = 1
) -> torch.export.ExportedProgram:
    """Capture the detector's whole graph for ``batch`` frames of one shape (H, W, C): strict, the bank as inputs."""
    graph = detector.graph(content, frame_shape).eval()
    example = torch.zeros((batch, *frame_shape), dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(graph, (example, *detector.bank(content).values()), strict=True)


def use_threads(count: int) -> None:
    """Let torch use ``count`` CPU threads in this process; 0 = one per core this process may use."""
    torch.set_num_threads(count or available_cores())


def _kept_by_extend(content: TemplateContent) -> tuple[dict[str, Any], dict[str, str], tuple[int, int]]:
    return dict(content.settings), dict(content.weights), content.map_shape


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"expected a CUDA device for {name!r}, found none: set worker.device to cpu, "
            "or install the driver and a CUDA build of torch"
        )
    return device
