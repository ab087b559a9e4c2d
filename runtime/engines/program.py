"""What a compiled program is called with, and what it must not be called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from runtime.detector import Detector, TemplateContent
from runtime.engines.shapes import Shape
from runtime.errors import EngineError


class Program(Protocol):
    """What a backend lends the engine: called with frames and bank, it answers as the eager graph does."""

    def __call__(self, frames: Tensor, *bank: Tensor) -> Any:
        """Return (map [B, h, w], score [B]) for frames uint8 [B, H, W, C], B what it was compiled for."""


@dataclass(frozen=True)
class Batches:
    """Programs that answer ``size`` frames at once, by frame shape (H, W, C).

    ``least``: frames from which on asking one, the rest filled up, costs less than frame by frame; 2..size.
    """

    size: int
    least: int
    programs: Mapping[Shape, Program]


@dataclass(frozen=True)
class Layout:
    """Shape and dtype of one input. Machine code does not check what it is given: ``check`` does."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """Return a tensor's layout."""
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    @classmethod
    def read(cls, record: Any) -> Layout:
        """Return the layout of a manifest's record, as ``as_json`` wrote it; ``EngineError`` if it is none."""
        try:
            return cls(tuple(int(side) for side in record["shape"]), str(record["dtype"]))
        except (TypeError, KeyError, ValueError) as error:
            raise EngineError(f"engine cache: expected the layout of an input, found {str(record)[:80]}") from error

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"shape": list(self.shape), "dtype": self.dtype}


class Inputs:
    """The inputs a program was compiled for. ``check`` costs microseconds and saves the process from foreign memory."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.layouts = tuple(layouts)
        self._expected = tuple((each.shape, getattr(torch, each.dtype)) for each in layouts)

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Raise ``EngineError`` unless number, shapes and dtypes are the program's and every tensor is contiguous."""
        found = tuple((each.shape, each.dtype) for each in tensors)
        if found != self._expected or not all(each.is_contiguous() for each in tensors):
            named = [f"{each.dtype} {list(each.shape)}" for each in map(Layout.of, tensors)]
            expected = [f"{each.dtype} {list(each.shape)}" for each in self.layouts]
            raise EngineError(f"compiled engine: expected contiguous inputs {expected}, found {named}")


def layouts(detector: Detector, content: TemplateContent, frame_shape: Shape, batch: int = 1) -> list[Layout]:
    """Return the inputs of the program ``runtime.engines.engine.export`` makes: frames first, then the bank."""
    frame = Layout((batch, *frame_shape), "uint8")
    return [frame, *map(Layout.of, detector.bank(content).values())]
