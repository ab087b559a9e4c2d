"""Looks at the machine edgead is to run on: `edgead doctor`. Every finding says what it means and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.engines.cache import EngineCache
from runtime.engines.folder import check_owner, check_parents, default_folder
from runtime.engines.tensorrt.marks import versions
from runtime.engines.tensorrt.ready import BACKENDS as TENSORRT
from runtime.engines.tensorrt.ready import check_ready
from runtime.errors import EngineError
from runtime.registry import Registry
from runtime.weights import state, weights_dir

#: Less free disk than this is worth a warning: templates of big banks take hundreds of megabytes.
LOW_DISK_BYTES = 2 * 1024**3
#: Packages whose versions matter for support.
PACKAGES = ("torch", "numpy", "opencv-python", "pyzmq", "msgpack", "pluggy", "pydantic")


@dataclass(frozen=True)
class Finding:
    """One finding. ``status``: ok, note (for information), warn (works, but), fail (in the way)."""

    check: str
    status: str
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {"check": self.check, "status": self.status, "detail": self.detail}


def examine(registry: Registry) -> list[Finding]:
    """Return every finding, most basic first."""
    return [*_system(), *_packages(), *_compute(), *_engines(), *_plugins(registry), *_weights(registry)]


def _system() -> Iterator[Finding]:
    version = platform.python_version()
    supported = sys.version_info >= (3, 11)
    need = "" if supported else ": 3.11 or newer is needed"
    yield Finding("python", "ok" if supported else "fail", version + need)
    linux = sys.platform == "linux" and hasattr(os, "memfd_create")
    need = "" if linux else ": the host needs Linux (memfd, packet sockets)"
    yield Finding("system", "ok" if linux else "fail", platform.platform() + need)
    yield Finding("cores", "ok", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}: {cpu_name()}")
    memory = memory_bytes()
    yield Finding("memory", "ok", f"{memory / 2**30:.1f} GiB")
    free = shutil.disk_usage(Path.cwd()).free
    low = free < LOW_DISK_BYTES
    need = ": templates may not fit" if low else ""
    yield Finding("disk", "warn" if low else "ok", f"{free / 2**30:.1f} GiB free here{need}")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "fail", "missing: install edgead again")


def _compute() -> Iterator[Finding]:
    import torch

    yield Finding("cpu capability", "ok", torch.backends.cpu.get_cpu_capability())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            size = f"SM {properties.major}.{properties.minor}, {properties.total_memory / 2**30:.1f} GiB"
            yield Finding(f"cuda:{index}", "ok", f"{properties.name}, {size}")
    else:
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}, but finds no driver or device" if built else "torch is a CPU build"
        yield Finding("cuda", "note", f"{why}: workers run on the CPU")


def _engines() -> Iterator[Finding]:
    name = os.environ.get("CXX") or "g++"
    compiler = shutil.which(name)
    missing = f"no {name!r}: `edgead build` needs one; engines that were built run without"
    yield Finding("c++ compiler", "ok" if compiler else "note", compiler or missing)
    for backend in TENSORRT:
        try:
            check_ready(backend, "cuda")
        except EngineError as error:
            yield Finding(f"backend {backend}", "note", str(error))
        else:
            yield Finding(f"backend {backend}", "ok", ", ".join(f"{k} {v}" for k, v in versions(backend).items()))
    cache = EngineCache(default_folder(), most_bytes=0)  # only looked at
    if not cache.folder.exists():
        yield Finding("engine cache", "note", f"nothing in {cache.folder}: see `edgead build`")
        return
    try:
        check_owner(cache.folder)
        check_parents(cache.folder)
    except EngineError as error:
        yield Finding("engine cache", "fail", str(error))
        return
    listed = cache.entries()
    size = sum(each for _, each, _ in listed) / 2**20
    yield Finding("engine cache", "ok", f"{len(listed)} engines, {size:.0f} MiB in {cache.folder}")


def _plugins(registry: Registry) -> Iterator[Finding]:
    for name in sorted(registry.detectors):
        record = registry.describe(name)
        error = record.get("error")
        found = error or f"version {record['version']} from {record['distribution']}"
        yield Finding(f"detector {name}", "fail" if error else "ok", found)
    for broken in registry.broken:
        yield Finding(f"plugin {broken.plugin}", "fail", f"{broken.distribution}: {broken.error}")


def _weights(registry: Registry) -> Iterator[Finding]:
    yield Finding("weights folder", "ok", str(weights_dir()))
    for weight in registry.weights.values():
        found = state(weight)
        status = {"present": "ok", "damaged": "fail"}.get(found, "note")
        hint = "" if found == "present" else ": see `edgead weights list`"
        yield Finding(f"weights {weight.name}", status, f"{found}{hint}")


def cpu_name() -> str:
    """Return the processor's model name, or the architecture where the kernel does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_bytes() -> int:
    """Return the machine's physical memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
