"""A loaded TensorRT engine: inputs are read where they lie on the GPU, outputs written to memory of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from runtime.engines.program import Inputs, Layout
from runtime.engines.tensorrt.compiler import BINDINGS, PLAN
from runtime.engines.tensorrt.launch import Launch
from runtime.errors import EngineError

#: TensorRT's names of formats (lower case) -> torch's.
_DTYPES = {"float": "float32", "half": "float16", "bf16": "bfloat16", "int32": "int32", "int64": "int64",
           "uint8": "uint8", "int8": "int8", "bool": "bool"}  # fmt: skip


class TensorRTProgram:
    """One engine with one execution context; for one thread. Every call gives fresh outputs on its device.

    ``library``: TensorRT's Python module. ``folder``: of the engine and its bindings. ``layouts``: of the inputs, frame
    first, then the bank. A bank keeps its address while it is the same tensors, so a launch may be replayed.
    """

    def __init__(
        self, library: ModuleType, folder: Path, layouts: Sequence[Layout], device: str, launch: Launch
    ) -> None:
        self._inputs, self._launch = Inputs(layouts), launch
        names = read_bindings(folder / BINDINGS)
        _check(names["inputs"], layouts, folder / BINDINGS)
        self._logger = library.Logger(library.Logger.ERROR)
        self._runtime = library.Runtime(self._logger)  # kept: the engine needs it alive
        self._engine = self._runtime.deserialize_cuda_engine((folder / PLAN).read_bytes())
        if self._engine is None:
            raise EngineError(
                f"tensorrt: expected an engine for this GPU and this TensorRT in {folder / PLAN}, found one that does "
                "not load: build it here with `edgead build STATION`"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                "tensorrt: expected GPU memory for the engine's work space, found too little: close what else uses the "
                "GPU, or use a smaller detector"
            )
        # An input the program does not read is no part of the engine.
        read = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        self._names = [each["name"] if each["name"] in read else None for each in names["inputs"]]
        self._outputs = [
            torch.empty(each["shape"], dtype=getattr(torch, _DTYPES[each["dtype"]]), device=device)
            for each in names["outputs"]
        ]
        for each, output in zip(names["outputs"], self._outputs, strict=True):
            self._place(each["name"], output)
        self._addresses: list[int] = []

    def __call__(self, frames: Tensor, *bank: Tensor) -> list[Tensor]:
        """Return [map, score]; see ``Program``. Raises ``EngineError`` for inputs it was not built for."""
        inputs = [frames, *bank]
        self._inputs.check(inputs)
        addresses = [each.data_ptr() for each in inputs]
        if addresses != self._addresses:
            if any(each.device != self._outputs[0].device for each in inputs):
                raise EngineError(
                    f"tensorrt: expected inputs on {self._outputs[0].device}, found {[str(e.device) for e in inputs]}: "
                    "the engine reads them by their address"
                )
            for name, each in zip(self._names, inputs, strict=True):
                if name is not None:
                    self._place(name, each)
            self._addresses = addresses
            self._launch.forget()
        self._launch(self._context.execute_async_v3)
        return [each.clone() for each in self._outputs]

    def _place(self, name: str, tensor: Tensor) -> None:
        if not self._context.set_tensor_address(name, tensor.data_ptr()):
            raise EngineError(f"tensorrt: expected the engine to take a tensor for {name!r}, found that it refused")


def read_bindings(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what ``compiler`` wrote beside an engine; ``EngineError`` where it is something else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {
            side: [
                {"name": str(each["name"]), "shape": [int(n) for n in each["shape"]], "dtype": _known(each["dtype"])}
                for each in record[side]
            ]
            for side in ("inputs", "outputs")
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(
            f"tensorrt: expected names, shapes and dtypes in {path}, found something else ({error}): build the engine "
            "again with `edgead build STATION`"
        ) from error


def _known(dtype: Any) -> str:
    if dtype not in _DTYPES:
        raise ValueError(f"dtype {dtype!r}")
    return str(dtype)


def _check(inputs: Sequence[dict[str, Any]], layouts: Sequence[Layout], path: Path) -> None:
    """Refuse an engine whose inputs are not those of the program it is to stand for: it would read foreign memory."""
    found = [Layout(tuple(each["shape"]), _DTYPES[each["dtype"]]) for each in inputs]
    if found != list(layouts):
        raise EngineError(
            f"tensorrt: expected inputs {[each.as_json() for each in layouts]}, found {[e.as_json() for e in found]} "
            f"in {path}: build the engine again with `edgead build STATION`"
        )
