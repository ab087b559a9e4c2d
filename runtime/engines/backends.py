"""The compiled backends by name: what each compiles with, how it compiles, and how it loads what it compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.engines import inductor
from runtime.engines.building import Tick
from runtime.engines.cache import Entry
from runtime.engines.program import Layout, Program
from runtime.engines.target import Target
from runtime.engines.tensorrt import backend as tensorrt
from runtime.engines.tensorrt.ready import has_gpu
from runtime.errors import ConfigError

if TYPE_CHECKING:  # importing torch.export takes longer than loading an engine
    from torch.export import ExportedProgram

Compile = Callable[["ExportedProgram", Path, Target, Tick], Mapping[str, Any]]
Load = Callable[[Path, Sequence[Layout], str], Program]


@dataclass(frozen=True)
class Backend:
    """``options``: JSON, part of every key. ``compile`` and ``load`` as in ``runtime.engines.inductor``."""

    options: Mapping[str, Any]
    compile: Compile
    load: Load


_BACKENDS = {
    "inductor": Backend(inductor.OPTIONS, inductor.compile_program, inductor.InductorProgram),
    "tensorrt": Backend(tensorrt.KEY, tensorrt.compile_program, tensorrt.load_tensorrt),
    "tensorrt-rtx": Backend(tensorrt.KEY, tensorrt.compile_program, tensorrt.load_rtx),
}


def backend_of(name: str) -> Backend:
    """Return a backend by its name; ``ConfigError`` lists what there is."""
    if name not in _BACKENDS:
        raise ConfigError(f"worker.backend: expected one of eager, {', '.join(_BACKENDS)}, found {name!r}")
    return _BACKENDS[name]


def load(entry: Entry, target: Target) -> Program:
    """Load a verified entry; ``EngineError`` where it does not load."""
    inputs = [Layout.read(each) for each in entry.record.get("inputs", ())]
    return backend_of(target.backend).load(entry.folder, inputs, target.device)


def runs_here(target: Target) -> bool:
    """Whether what is built for ``target`` runs on this machine; only engines for RTX are built where they do not."""
    return target.backend != "tensorrt-rtx" or has_gpu(target.device)
