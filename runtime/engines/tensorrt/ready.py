"""Whether a TensorRT backend can run here, in one sentence; imports torch only when a GPU has to be looked for."""

from __future__ import annotations

from runtime.engines.tensorrt.marks import is_rtx, versions
from runtime.errors import EngineError

BACKENDS = ("tensorrt", "tensorrt-rtx")
_ELSE = "or set worker.backend to inductor, auto or eager"


def check_ready(backend: str, device: str) -> None:
    """Raise ``EngineError`` unless everything ``backend`` needs on ``device`` is here, the cheapest to see first."""
    if not device.startswith("cuda"):
        raise EngineError(
            f"{backend}: expected worker.device cuda or cuda:N, found {device!r}: TensorRT runs on NVIDIA GPUs only; "
            f"set it, {_ELSE}"
        )
    missing = [name for name, found in versions(backend).items() if found == "none"]
    if missing:
        raise EngineError(
            f"{backend}: expected torch-TensorRT and TensorRT{' for RTX' if is_rtx(backend) else ''}, found no "
            f"{' and no '.join(name.replace('_', '-') for name in missing)}: install `edgead[{backend}]` with the "
            f"constraints file of this platform, see docs/tensorrt.md, {_ELSE}"
        )
    check_gpu(backend, device)


def has_gpu(device: str) -> bool:
    """Whether ``device`` is an NVIDIA GPU that is here."""
    import torch

    wanted = torch.device(device)
    return wanted.type == "cuda" and torch.cuda.is_available() and (wanted.index or 0) < torch.cuda.device_count()


def check_gpu(backend: str, device: str) -> None:
    """Raise ``EngineError`` unless ``device`` is an NVIDIA GPU that is here."""
    import torch

    if has_gpu(device):
        return
    count = torch.cuda.device_count()
    found = f"{count} other(s)" if count else "none"
    build = "" if torch.version.cuda else " (torch is a CPU build)"
    raise EngineError(
        f"{backend}: expected an NVIDIA GPU for worker.device {device!r}, found {found}{build}: install the driver and "
        f"a CUDA build of torch, or name a GPU that is here, {_ELSE}"
    )
