"""The ``inductor`` backend: AOTInductor makes a shared object of the exported program; loading takes milliseconds.

Compiling runs in a process of its own (``runtime.engines.compiler``): it takes hundreds of megabytes and minutes of
CPU, needs a C++ compiler, and leaves torch's compiler in memory, none of which belongs into a worker. The object lies
in the cache unpacked, and is loaded from there: nothing is unzipped into /tmp, which may be mounted noexec.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from runtime.engines.building import TAIL, Tick, run_builder
from runtime.engines.program import Inputs, Layout
from runtime.engines.target import Target
from runtime.errors import EngineError

if TYPE_CHECKING:  # importing torch.export takes longer than loading an engine
    from torch.export import ExportedProgram

#: What the program is compiled with; part of the key.
#: freezing: weights are constants, so convolutions are fused with what follows and their weights laid out channels
#: last once. It only takes place where gradients are off: the compiler's process sees to that.
OPTIONS: dict[str, Any] = {"freezing": True}
LIBRARY = "model.so"
#: Where the generated code calls torch operations without a C interface, this file beside the library lists them.
FALLBACKS = "model.json"


class InductorProgram:
    """A loaded shared object. The caller owns inputs and outputs; every call gives fresh outputs."""

    def __init__(self, folder: Path, layouts: Sequence[Layout], device: str) -> None:
        self._inputs = Inputs(layouts)
        library = str(folder / LIBRARY)
        try:
            # The classes behind torch's own package loader, without its archive: no import of the whole compiler.
            runners = torch._C._aoti  # noqa: SLF001
            self._runner: Any = (
                runners.AOTIModelContainerRunnerCuda(library, 1, device)
                if torch.device(device).type == "cuda"
                else runners.AOTIModelContainerRunnerCpu(library, 1)
            )
        except RuntimeError as error:
            raise EngineError(f"compiled engine: {library} cannot be loaded: {str(error).splitlines()[0]}") from error

    def __call__(self, frames: Tensor, *bank: Tensor) -> list[Tensor]:
        """Return [map, score]; see ``Program``. Raises ``EngineError`` for inputs it was not compiled for."""
        inputs = [frames, *bank]
        self._inputs.check(inputs)
        found: list[Tensor] = self._runner.run(inputs)
        return found


def compiler_name() -> str:
    """Return the C++ compiler's path; ``EngineError`` where there is none."""
    wanted = os.environ.get("CXX") or "g++"
    found = shutil.which(wanted)
    if found is None:
        raise EngineError(
            f"engines: expected a C++ compiler to build with, found no {wanted!r}: install g++ (Debian: apt install "
            "g++), build on an equal machine and copy the cache folder, or set worker.backend to auto or eager"
        )
    return found


def compile_program(
    program: ExportedProgram, folder: Path, target: Target, tick: Tick = lambda _seconds: None
) -> Mapping[str, Any]:
    """Compile into ``folder`` (empty) and return what the manifest should know. ``tick(seconds)`` is called meanwhile.

    Raises ``EngineError`` with the end of the compiler's output.
    """
    compiler = compiler_name()
    work = folder / "work"
    work.mkdir()
    save_program(program, work)
    started = time.monotonic()
    arguments = (str(work), str(target.threads), target.device)
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(work / "cache")}
    code, said = run_builder("runtime.engines.compiler", arguments, work, environment, tick)
    if code != 0:
        said = " ".join(said.split())[-TAIL:]
        raise EngineError(f"engines: compiling with {compiler} failed with exit code {code}: ... {said}")
    for name in (LIBRARY, FALLBACKS):
        if (work / name).exists():
            (work / name).rename(folder / name)
    shutil.rmtree(work)
    return {"compiler": compiler, "compile_s": round(time.monotonic() - started, 1)}


def save_program(program: ExportedProgram, work: Path) -> None:
    """Write ``program.pt2`` for the building process into ``work``. Raises ``EngineError`` on a full disk."""
    own_storage(program)
    try:
        torch.export.save(program, work / "program.pt2")
    except RuntimeError as error:  # torch's word for a disk that is full
        raise EngineError(f"engines: cannot write {work}: {str(error).splitlines()[0]}; free space") from error


def own_storage(program: ExportedProgram) -> None:
    """Give every constant memory of its own: of views into one storage the archive keeps what the first one shows."""
    for table in (program.state_dict, program.constants):
        for name, value in table.items():
            if isinstance(value, torch.Tensor):
                own = value.detach().clone(memory_format=torch.contiguous_format)
                table[name] = Parameter(own, requires_grad=False) if isinstance(value, Parameter) else own
