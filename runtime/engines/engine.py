"""Runs a detector's graph on one frame after another: uint8 image in, checked map and score out.

The offline evaluation and the worker use this same call, so a score on the line is the score of the evaluation. The
eager graph is the reference; a program compiled from it (``runtime.engines``) stands in for it where one is given and
has passed the parity gate.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from runtime.detector import Detector, DetectorResult, TemplateContent
from runtime.engines.program import Batches, Program
from runtime.engines.shapes import Shape
from runtime.engines.staging import Staging
from runtime.engines.streams import stream_of
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
    ones by frame shape (H, W, C); frames of any other shape go through the eager graph. ``priority``: normal or low, of
    the CUDA stream its work is queued on; None: the current one. A CPU has none.
    """

    def __init__(
        self,
        detector: Detector,
        content: TemplateContent,
        *,
        device: str = "cpu",
        threads: int = 0,
        programs: Mapping[Shape, Program] | None = None,
        priority: str | None = None,
    ) -> None:
        self.device = _device(device)
        self._on_cpu = self.device.type == "cpu"
        use_threads(threads)
        self.detector = detector
        self.content = content
        self._bank = {name: tensor.to(self.device) for name, tensor in detector.bank(content).items()}
        self._staging = None if self._on_cpu else Staging(self.device)
        self._stream = None if self._on_cpu or priority is None else stream_of(priority, self.device)
        self._programs = dict(programs or {})
        self._batches: Batches | None = None
        self._graphs: OrderedDict[Shape, torch.nn.Module] = OrderedDict()

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
        frame = _with_channels(image)
        # No copy: the frame goes from the slot into the graph as it lies there.
        (result,) = self._answers(self.program(frame.shape), frame[None], self._bank if bank is None else bank)
        return self._finite(result)

    @property
    def batch(self) -> int:
        """The most frames one call answers at once; 1: frames go one by one."""
        return 1 if self._batches is None else self._batches.size

    def use_batches(self, batches: Batches | None) -> None:
        """Answer several frames at once from now on, as ``batches`` says, which has proven itself; None: never."""
        self._batches = batches

    def infer_many(self, images: Sequence[np.ndarray]) -> list[DetectorResult | Exception]:
        """Inspect images as ``infer`` does one; return an answer each, in their order.

        Raises nothing: in place of its result stands what ``infer`` raised for a frame. Where there are programs for
        several frames, images of one shape go together; whatever they do not answer well goes alone.
        """
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self.infer_many(images)
        found = self._together(images) if len(images) > 1 and self._batches is not None else {}
        return [found[place] if place in found else self._alone(image) for place, image in enumerate(images)]

    def infer_batch(self, program: Program, size: int, images: Sequence[np.ndarray]) -> list[DetectorResult]:
        """Answer at most ``size`` images of one shape by a ``program`` for ``size``; the last one fills it up.

        A result may be not finite. Raises what the program raises, and ``ResultError`` for answers of another shape.
        """
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self.infer_batch(program, size, images)
        frames = [_with_channels(image) for image in images]
        frames += frames[-1:] * (size - len(frames))
        return self._answers(program, np.stack(frames), self._bank)[: len(images)]

    def program(self, shape: tuple[int, ...]) -> Program:
        """Return what answers one frame of a shape (H, W, C): the compiled program, else the eager graph.

        The eager graph takes any number of frames.
        """
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

    def _together(self, images: Sequence[np.ndarray]) -> dict[int, DetectorResult]:
        """Return what programs for several frames answer well, by place in ``images``."""
        found: dict[int, DetectorResult] = {}
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, image in enumerate(images):
            if image.dtype == np.uint8:
                alike[_with_channels(image).shape].append(place)
        for shape, places in alike.items():
            for start in range(0, len(places), self.batch):
                chunk = places[start : start + self.batch]
                answers = self._as_batch(shape, [images[place] for place in chunk])
                found |= {place: each for place, each in zip(chunk, answers, strict=False) if _is_finite(each)}
        return found

    def _as_batch(self, shape: tuple[int, ...], images: Sequence[np.ndarray]) -> list[DetectorResult]:
        """Return the answers of the program for several frames; none where there is none, or frame by frame is less."""
        batches = self._batches
        program = None if batches is None else batches.programs.get(shape)  # type: ignore[arg-type]
        if batches is None or program is None or len(images) < batches.least:
            return []
        try:
            return self.infer_batch(program, batches.size, images)
        except Exception:  # whatever it is, frame by frame it shows whose it is
            log.exception("%d frames at once failed: from now on they are inspected one by one", len(images))
            self.use_batches(None)
            return []

    def _alone(self, image: np.ndarray) -> DetectorResult | Exception:
        try:
            return self.infer(image)
        except Exception as error:  # noqa: BLE001 - handed to the caller's guard: one frame must not cost its neighbours
            return error

    def _answers(self, program: Program, frames: np.ndarray, bank: Mapping[str, torch.Tensor]) -> list[DetectorResult]:
        """Let a program answer frames, uint8 [B, H, W, C]; return their results, checked for shape alone."""
        batch = torch.from_numpy(frames)  # shares memory
        if self._staging is None:
            anomaly_map, score = program(batch, *bank.values())
            return self._results(anomaly_map, score, len(frames))
        with torch.cuda.stream(self._stream):  # None: the current one
            anomaly_map, score = program(self._staging.upload(batch), *bank.values())
            return self._results(anomaly_map, score, len(frames))

    def _results(self, anomaly_map: Any, score: Any, count: int) -> list[DetectorResult]:
        expected = (count, *self.content.map_shape)
        shapes = getattr(anomaly_map, "shape", ()), getattr(score, "shape", ())
        if shapes != (expected, expected[:1]):  # torch's shapes are tuples
            raise ResultError(
                self.detector.name,
                f"expected a map of shape {expected} and a score of {expected[:1]}, found {tuple(shapes[0])}, "
                f"{tuple(shapes[1])}",
            )
        if self._staging is not None:
            anomaly_map, score = self._staging.download(anomaly_map, score)
        maps = anomaly_map.to("cpu", torch.float32).numpy()
        return [DetectorResult(each, float(value)) for each, value in zip(maps, score.tolist(), strict=True)]

    def _finite(self, result: DetectorResult) -> DetectorResult:
        if not _is_finite(result):
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


def _with_channels(image: np.ndarray) -> np.ndarray:
    return image[:, :, None] if image.ndim == 2 else image  # noqa: PLR2004 - grey has no channel axis


def _is_finite(result: DetectorResult) -> bool:
    return math.isfinite(result.score) and bool(np.isfinite(result.anomaly_map).all())


def use_threads(count: int) -> None:
    """Let torch use ``count`` CPU threads in this process; 0 = one per core this process may use."""
    torch.set_num_threads(count or available_cores())


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"expected a CUDA device for {name!r}, found none: set worker.device to cpu, "
            "or install the driver and a CUDA build of torch"
        )
    return device
