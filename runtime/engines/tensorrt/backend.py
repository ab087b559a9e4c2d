"""The ``tensorrt`` and ``tensorrt-rtx`` backends as ``runtime.engines.backends`` knows them: compile, and load.

Compiling runs in a process of its own (``compiler``). What is kept is TensorRT's serialised engine and a small JSON
file, no pickle: torch-TensorRT's own saved modules hold one. An engine is machine code all the same, so only the
cache's rules of ownership make it safe to load.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from runtime.engines.building import TAIL, Tick, run_builder
from runtime.engines.inductor import save_program
from runtime.engines.program import Layout
from runtime.engines.target import Target
from runtime.engines.tensorrt.compiler import BINDINGS, PLAN, REFUSED
from runtime.engines.tensorrt.marks import capabilities, is_rtx, versions
from runtime.engines.tensorrt.options import KEY as KEY
from runtime.engines.tensorrt.ready import check_gpu
from runtime.errors import EngineError

if TYPE_CHECKING:  # importing torch.export takes longer than loading an engine
    from torch.export import ExportedProgram

    from runtime.engines.tensorrt.program import TensorRTProgram


def compile_program(
    program: ExportedProgram, folder: Path, target: Target, tick: Tick = lambda _seconds: None
) -> Mapping[str, Any]:
    """Build into ``folder`` (empty) and return what the manifest should know. ``tick(seconds)`` is called meanwhile.

    Raises ``EngineError``: no GPU (but for RTX), an operation without converter, or TensorRT's own words.
    """
    if not is_rtx(target.backend):
        check_gpu(target.backend, target.device)
    work = folder / "work"
    work.mkdir()
    save_program(program, work)
    started = time.monotonic()
    on_gpu = torch.device(target.device).type == "cuda"
    environment = {"CUDA_VISIBLE_DEVICES": _visible(target.device)} if on_gpu else {}
    module, arguments = "runtime.engines.tensorrt.compiler", (str(work), target.backend)
    code, said = run_builder(module, arguments, work, environment, tick)
    if code == REFUSED:
        raise EngineError(said.splitlines()[-1])
    if code != 0:
        raise EngineError(f"engines: building with {target.backend} failed with exit code {code}: ... {said[-TAIL:]}")
    for name in (PLAN, BINDINGS):
        (work / name).rename(folder / name)
    shutil.rmtree(work)
    built_for = {"capabilities": capabilities()} if is_rtx(target.backend) else {}
    return {**versions(target.backend), **built_for, "compile_s": round(time.monotonic() - started, 1)}


def _visible(device: str) -> str:
    """Return the one GPU the building process may see, as CUDA numbers it before any earlier restriction."""
    listed = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    index = torch.device(device).index or 0
    return listed[index] if index < len(listed) else str(index)


def load_tensorrt(folder: Path, layouts: Sequence[Layout], device: str) -> TensorRTProgram:
    """Load an engine of TensorRT; ``EngineError`` where it does not load here."""
    return _load("tensorrt", folder, layouts, device)


def load_rtx(folder: Path, layouts: Sequence[Layout], device: str) -> TensorRTProgram:
    """Load an engine of TensorRT-RTX; ``EngineError`` where it does not load here."""
    return _load("tensorrt-rtx", folder, layouts, device)


def _load(backend: str, folder: Path, layouts: Sequence[Layout], device: str) -> TensorRTProgram:
    from runtime.engines.tensorrt.launch import Captured, Enqueued
    from runtime.engines.tensorrt.native import bindings
    from runtime.engines.tensorrt.program import TensorRTProgram

    check_gpu(backend, device)
    rtx = is_rtx(backend)
    # RTX compiles kernels for the shapes it meets while it runs: a capture would keep the first, slow ones.
    launch = Enqueued(device) if rtx else Captured(device)
    return TensorRTProgram(bindings(rtx=rtx), folder, layouts, device, launch)
