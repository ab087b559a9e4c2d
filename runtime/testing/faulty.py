"""A detector that misbehaves when a frame tells it to, as a plugin: for tests of everything that must survive it.

A frame whose first four bytes are ``MARK``, a ``Fault`` and an argument makes it misbehave. Every other frame has an
answer anybody can work out (``right_answer``): the score is the mean of all pixels / 255, and place (y, x) of the map
holds the mean of channel x modulo the number of channels / 255, plus y / 16: a map shows the channel order the detector
saw, and varies from place to place, as a living engine's must.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pluggy
from pydantic import BaseModel, ConfigDict

from runtime.detector import Detector, DetectorContext, TemplateContent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from runtime.frame import Frame

hookimpl = pluggy.HookimplMarker("edgead")

#: First two bytes of a frame that asks for a fault; the test frames without one begin with other bytes.
MARK = (0xFA, 0x17)
MAP_SIDE = 12
#: Bytes ``Fault.MEMORY`` gets beyond what its process has: enough to be seen, not enough to hurt the machine.
MEMORY_BYTES = 64 * 1024 * 1024


class Fault(IntEnum):
    """What a marked frame makes the detector do."""

    SLEEP = 1
    """Answer rightly after ``argument`` x 10 milliseconds."""
    RAISE = 2
    NAN_SCORE = 3
    NAN_MAP = 4
    MAP_SHAPE = 5
    SCORE_SHAPE = 6
    NO_PAIR = 7
    """Return the score alone."""
    EXIT = 8
    """End the process with exit status ``argument``."""
    KILL = 9
    """End the process as the kernel's out-of-memory killer or a driver would."""
    HANG = 10
    MEMORY = 11
    """Take memory until the kernel gives no more."""
    ODD_TEXT = 12
    """Raise an exception whose text UTF-8 cannot carry."""
    POISON = 13
    """Raise on this frame and on every later one of this process, as a CUDA fault does."""
    ZERO_MAP = 14
    """Answer with score 0 and a map of zeros, as an engine whose kernels no longer run."""
    FLAT_MAP = 15
    """Answer with the right score and a map of one value."""
    OLD_MAP = 16
    """Answer with the map of the frame before, as an engine that stopped writing its output."""
    DIE_OUT = 17
    """Answer this frame and every later one of this process with zeros."""
    DRIFT = 18
    """Answer rightly, and from the next frame on with scores that are too low, as where memory has gone bad."""


class FaultySettings(BaseModel):
    """What goes wrong before the first frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    graph_raises: bool = False
    """Raise in ``graph``: the worker cannot load."""


class Faulty(Detector):
    """See the module docstring."""

    name = "faulty"
    version = "1"
    settings_model = FaultySettings

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Learn nothing."""
        del references, context
        bank = {"zero": np.zeros(1, np.float32)}
        return TemplateContent(settings.model_dump(), bank, 1, 1, (MAP_SIDE, MAP_SIDE))

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> nn.Module:
        """Return the module that obeys the marks; raises ``RuntimeError`` where the settings say so."""
        import torch

        if content.settings["graph_raises"]:
            raise RuntimeError("this detector was told not to build its graph")

        class Obedient(torch.nn.Module):
            before: Tensor | None = None

            def forward(self, frames: Tensor, zero: Tensor) -> object:
                means = frames.to(torch.float32).mean(dim=(1, 2)) / 255  # [B, C]
                columns = torch.arange(MAP_SIDE) % means.shape[1]
                score = frames.to(torch.float32).mean(dim=(1, 2, 3)) / 255
                anomaly_map = means[:, None, columns] + torch.arange(MAP_SIDE)[None, :, None] / 16 + zero
                before, self.before = self.before, anomaly_map
                if Fault.POISON in _lasting:
                    _raise(0)
                if Fault.DIE_OUT in _lasting:
                    return anomaly_map * 0, score * 0
                if Fault.DRIFT in _lasting:
                    return anomaly_map, score / 2
                first = frames.flatten()[:4].tolist()
                if tuple(first[:2]) != MARK:
                    return anomaly_map, score
                if first[2] == Fault.OLD_MAP:
                    return before, score
                return _misbehave(Fault(first[2]), first[3], anomaly_map, score)

        del frame_shape
        return Obedient()

    def bank(self, content: TemplateContent) -> Mapping[str, Tensor]:
        """Return the one zero it needs."""
        import torch

        return {"zero": torch.from_numpy(content.tensors["zero"])}


def marked(image: np.ndarray, fault: Fault, argument: int = 0) -> np.ndarray:
    """Return a copy of a uint8 image, [H, W] or [H, W, 3], at least four bytes, that asks for a fault."""
    copy = np.ascontiguousarray(image).copy()
    copy.reshape(-1)[:4] = (*MARK, fault, argument)
    return copy


def right_answer(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the map, float32 [``MAP_SIDE``, ``MAP_SIDE``], and the score for a uint8 image, [H, W] or [H, W, 3] RGB.

    Exact for images below 65,000 values: their sums fit float32.
    """
    channels = image.reshape(*image.shape[:2], -1)
    means = channels.sum(axis=(0, 1)).astype(np.float32) / np.float32(channels[..., 0].size) / np.float32(255)
    score = np.float32(channels.sum()) / np.float32(channels.size) / np.float32(255)
    row = means[np.arange(MAP_SIDE) % channels.shape[2]]
    return row[None] + np.arange(MAP_SIDE, dtype=np.float32)[:, None] / 16, float(score)


def _misbehave(fault: Fault, argument: int, anomaly_map: Tensor, score: Tensor) -> object:
    """Do what the mark says; return what the graph returns, if it returns."""
    if fault in _ENDINGS:
        _ENDINGS[fault](argument)
    wrong: dict[Fault, object] = {
        Fault.NAN_SCORE: (anomaly_map, score * float("nan")),
        Fault.NAN_MAP: (anomaly_map.clone().index_fill_(1, anomaly_map.new_zeros(1).long(), float("nan")), score),
        Fault.MAP_SHAPE: (anomaly_map[:, 1:], score),
        Fault.SCORE_SHAPE: (anomaly_map, score[:, None]),
        Fault.NO_PAIR: score,
        Fault.ZERO_MAP: (anomaly_map * 0, score * 0),
        Fault.FLAT_MAP: (anomaly_map * 0 + 0.25, score),
        Fault.DIE_OUT: (anomaly_map * 0, score * 0),
    }
    return wrong.get(fault, (anomaly_map, score))


#: Faults that stay with the process once a frame has asked for them.
_lasting: set[Fault] = set()


def _poison(argument: int) -> None:
    _lasting.add(Fault.POISON)
    _raise(argument)


def _raise(_argument: int) -> None:
    raise RuntimeError("this frame asked for an exception")


def _raise_odd_text(_argument: int) -> None:
    raise FileNotFoundError("no file \udcff")


def _hang(_argument: int) -> None:
    while True:
        time.sleep(1)


def _take_memory(_argument: int) -> None:
    # Under a limit of this process's own: the kernel really refuses, and the machine has memory left.
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    held: list[bytearray] = []
    try:
        while True:
            held.append(bytearray(MEMORY_BYTES // 8))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


_ENDINGS: dict[Fault, Callable[[int], object]] = {
    Fault.SLEEP: lambda argument: time.sleep(argument / 100),
    Fault.RAISE: _raise,
    Fault.ODD_TEXT: _raise_odd_text,
    Fault.POISON: _poison,
    Fault.DIE_OUT: lambda _argument: _lasting.add(Fault.DIE_OUT),
    Fault.DRIFT: lambda _argument: _lasting.add(Fault.DRIFT),
    Fault.EXIT: os._exit,
    Fault.KILL: lambda _argument: os.kill(os.getpid(), signal.SIGKILL),
    Fault.HANG: _hang,
    Fault.MEMORY: _take_memory,
}


@hookimpl
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Bring ``faulty``."""
    register("faulty", Faulty)
