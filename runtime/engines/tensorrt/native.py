"""Importing torch-TensorRT in a process that compiles, with a GPU or, for TensorRT-RTX, without one.

RTX engines are built ahead of time on any machine, which NVIDIA documents; torch-TensorRT asks torch for a GPU all the
same, at import and in every ``CompilationSettings()``. Where there is none, the four questions are answered here, and
its C++ runtime, which links CUDA and which we do not use, is left unloaded. Only for a process that compiles and ends.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

from runtime.errors import EngineError

_RUNTIME_LIBRARIES = ("libtorchtrt.so", "libtorchtrt_runtime.so")
_PACKAGE = "torch_tensorrt"


def import_torch_tensorrt(*, rtx: bool) -> ModuleType:
    """Import and return ``torch_tensorrt``, for TensorRT-RTX or for TensorRT; ``EngineError`` says what is missing.

    One of the two in a process: which it is, is decided at the first import.
    """
    if rtx:
        _alias_rtx()
    try:
        with without_gpu(), _named_rtx() if rtx else nullcontext():
            return importlib.import_module(_PACKAGE)
    except (ImportError, OSError, RuntimeError) as error:
        extra = "tensorrt-rtx" if rtx else "tensorrt"
        raise EngineError(
            f"{extra}: expected torch-tensorrt and the libraries it was made for, found {_line(error)}: install them "
            f"with `pip install 'edgead[{extra}]' -c constraints/...`, see docs/tensorrt.md, or set worker.backend to "
            "inductor, auto or eager"
        ) from error


def bindings(*, rtx: bool) -> ModuleType:
    """Return TensorRT's own Python module, which loads and runs engines; ``EngineError`` where there is none."""
    names = ("tensorrt_rtx", "tensorrt_rtx_bindings") if rtx else ("tensorrt",)
    said = ""
    for name in names:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            said = _line(error)
    extra = "tensorrt-rtx" if rtx else "tensorrt"
    raise EngineError(
        f"{extra}: expected the Python module {names[0]}, found none ({said}): install it with "
        f"`pip install 'edgead[{extra}]' -c constraints/...`, see docs/tensorrt.md, or set worker.backend to inductor, "
        "auto or eager"
    )


@contextmanager
def without_gpu() -> Iterator[None]:
    """Answer what torch-TensorRT asks torch about the GPU, where there is none; nothing is changed where there is one.

    No CUDA tensor becomes possible by it.
    """
    import torch

    if torch.cuda.is_available():
        yield
        return
    answers: dict[str, Callable[..., Any]] = {
        "current_device": lambda: 0,
        "get_device_capability": lambda _device=None: (8, 9),
        "mem_get_info": lambda _device=None: (8 << 30, 8 << 30),
        "empty_cache": lambda: None,
    }
    saved = {name: getattr(torch.cuda, name) for name in answers}
    is_file = os.path.isfile
    properties = "_CudaDeviceProperties"  # a class named in an annotation, absent from CPU builds of torch
    lacks = not hasattr(torch._C, properties)  # noqa: SLF001 - that is where it is looked for
    try:
        for name, answer in answers.items():
            setattr(torch.cuda, name, answer)
        if lacks:
            setattr(torch._C, properties, type(properties, (), {}))  # noqa: SLF001
        os.path.isfile = lambda path: not str(path).endswith(_RUNTIME_LIBRARIES) and is_file(path)
        yield
    finally:
        os.path.isfile = is_file
        for name, function in saved.items():
            setattr(torch.cuda, name, function)
        if lacks:
            delattr(torch._C, properties)  # noqa: SLF001


def _alias_rtx() -> None:
    """Make the bindings importable as ``tensorrt_rtx`` where only their wheel, not the package around it, is there."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        module = bindings(rtx=True)
        sys.modules.setdefault("tensorrt_rtx", module)
        inner = sys.modules.get("tensorrt_rtx_bindings.tensorrt_rtx")
        if inner is not None:
            sys.modules.setdefault("tensorrt_rtx.tensorrt_rtx", inner)


@contextmanager
def _named_rtx() -> Iterator[None]:
    """Let torch-TensorRT find itself installed as ``torch-tensorrt-rtx``: that name alone selects the library.

    The wheels of both names hold the same Python code.
    """
    real = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = lambda: {**real(), _PACKAGE: ["torch-tensorrt-rtx"]}
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = real


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
