"""What a TensorRT engine depends on besides its program; read without importing TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from runtime.engines.tensorrt.options import RTX_CAPABILITIES

#: TensorRT comes under a name per CUDA line, or with the system (JetPack) under the plain one.
_TENSORRT = ("tensorrt-cu13-libs", "tensorrt-cu12-libs", "tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_RTX = ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu12-libs", "tensorrt-rtx")


def versions(backend: str) -> Mapping[str, str]:
    """Return the versions of torch-TensorRT and TensorRT (RTX), "none" where one is missing."""
    torch_tensorrt = _first("torch-tensorrt-rtx", "torch-tensorrt") if is_rtx(backend) else _first("torch-tensorrt")
    return {"torch_tensorrt": torch_tensorrt, "tensorrt": _first(*(_RTX if is_rtx(backend) else _TENSORRT))}


def is_rtx(backend: str) -> bool:
    """Whether ``backend`` is TensorRT for RTX, whose engines are built for several GPUs and without one."""
    return backend == "tensorrt-rtx"


def capabilities() -> str:
    """Return the compute capabilities of RTX engines as one text."""
    return " ".join(RTX_CAPABILITIES)


def _first(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "none"
