"""What an engine is compiled for: backend, precision, device, threads, and the machine it will run on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runtime.engines.tensorrt.marks import capabilities, is_rtx, versions
from runtime.engines.tensorrt.ready import BACKENDS as TENSORRT

#: Raised when the way programs are lowered, compiled or called changes: engines of another one are never loaded.
FORMAT = "edgead.engine/2"
#: Lines of /proc/cpuinfo that list what a processor can do, on x86 and on Arm.
_ISA_KEYS = ("flags", "Features")


@dataclass(frozen=True)
class Target:
    """``backend``: inductor, tensorrt or tensorrt-rtx. ``precision``: a key of ``runtime.engines.parity.LIMITS``.

    ``device``: torch device string. ``threads``: CPU threads the code is generated for, at least 1.
    """

    backend: str
    precision: str
    device: str
    threads: int

    def marks(self) -> dict[str, str]:
        """Return everything an engine depends on besides its program, as plain text by name.

        The C++ compiler is not among them: a station without one must find what was built for it, and the code's
        interface to torch is the same. CPUs are told apart by what they can do, because code is generated for exactly
        that. An engine of TensorRT is the GPU's alone: CPU, threads and the build of torch around it do not count.
        """
        if self.backend in TENSORRT:
            return {
                "format": FORMAT,
                "backend": self.backend,
                "precision": self.precision,
                # For several kinds of GPU at once, so that one can be built where there is none.
                "device": capabilities() if is_rtx(self.backend) else _gpu(self.device),
                "machine": platform.machine(),
                "torch": installed("torch").partition("+")[0],
                **versions(self.backend),
            }
        return {
            "format": FORMAT,
            "backend": self.backend,
            "precision": self.precision,
            "device": self.device if self.device == "cpu" else _gpu(self.device),
            "threads": str(self.threads),
            "machine": platform.machine(),
            "isa": isa(),
            "torch": installed("torch"),
        }


def digest_of(record: object) -> str:
    """Return the sha256 of a JSON value, hexadecimal; the same value gives the same digest in every process."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def available_cores() -> int:
    """Count the CPU cores this process may use (respects affinity and containers' cpusets)."""
    return len(os.sched_getaffinity(0))


def installed(name: str) -> str:
    """Return an installed distribution's version, or "none"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


@cache
def isa() -> str:
    """Return the digest of the processor's features, 16 hexadecimal digits; the same on equal processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":") for line in lines)
    features = next((value.split() for key, _, value in named if key.strip() in _ISA_KEYS), [])
    return digest_of([platform.machine(), sorted(features)])[:16]


def _gpu(device: str) -> str:
    """Return a GPU's name and compute capability: two of a kind share engines, whichever index they have."""
    import torch

    properties = torch.cuda.get_device_properties(torch.device(device))
    return f"{properties.name} SM {properties.major}.{properties.minor}"
