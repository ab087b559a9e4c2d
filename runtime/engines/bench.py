"""`edgead bench detector`: the engines of a station's templates side by side, in one run, with the reference.

Figures on shared machines are noise; engines take turns frame by frame, so their ratios are not. What was not built is
not measured: `edgead build` makes it first.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from runtime.client.watch import percentile
from runtime.detector import Detector
from runtime.doctor import cpu_name
from runtime.engines.ahead import wanted
from runtime.engines.approvals import approval_name, read_approval
from runtime.engines.choice import Chosen, choose
from runtime.engines.engine import Engine
from runtime.engines.fastest import PRECISIONS
from runtime.engines.settings import EngineSettings
from runtime.engines.shapes import shapes_of
from runtime.engines.target import installed
from runtime.engines.timing import take_turns
from runtime.errors import EngineError
from runtime.registry import Registry
from runtime.station.config import Station
from runtime.store.template import Template

Progress = Callable[[int, int, str], None]
#: Longest a fresh process may take to its first result.
_FRESH_TIMEOUT_S = 600.0
_REFERENCE = "eager fp32"


def bench_detector(
    station: Station, registry: Registry, builtins: tuple[str, ...], progress: Progress, rounds: int
) -> dict[str, Any]:
    """Return {"engines": [...], "machine": {...}} for every template of ``station``; each engine answers ``rounds``.

    Per engine, in milliseconds over the golden frames at batch 1: p50, p99; the same beside a process that keeps a core
    busy; ``ratio``: its p50 over eager's. ``first_s``: seconds from starting a process to its first result, as a worker
    starts; ``rss_mb``: that process's largest memory. ``compile_s``: once, when it was built. ``gflops``: products and
    sums of the graph per second, counted in convolutions and matrix products; ``roofline``: their share of what one
    large fp32 matrix product reaches here, in the same run.
    """
    ceiling = _ceiling(station)
    rows = []
    for detector, template in wanted(station, registry):
        rows += _Case(station, builtins, detector, template).rows(progress, rounds, ceiling)
    machine = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": station.worker.threads or len(os.sched_getaffinity(0)),
        "torch": installed("torch"),
        "python": platform.python_version(),
        "rounds": rounds,
        "matmul_gflops": round(ceiling, 1),
    }
    return {"engines": rows, "machine": machine}


@dataclass(frozen=True)
class _Case:
    """One template, and the engines there are for it."""

    station: Station
    builtins: tuple[str, ...]
    detector: Detector
    template: Template

    @property
    def threads(self) -> int:
        """CPU threads of each engine."""
        return self.station.worker.threads or len(os.sched_getaffinity(0))

    def rows(self, progress: Progress, rounds: int, ceiling: float) -> list[dict[str, Any]]:
        """Measure; see ``bench_detector``."""
        frames = [each.frame for each in self.template.golden()]
        if not frames:
            raise EngineError(f"template {self.template.digest[:12]}: expected golden frames to time, found none")
        made = {name: self._chosen(wish) for name, wish in self._variants()}
        engines = {name: chosen.engine for name, chosen in made.items()}
        gflop = _gflop(made[_REFERENCE].engine, frames[0])
        steps = 2 + len(made)
        progress(0, steps, self.detector.name)
        alone = take_turns(engines, frames, rounds)
        progress(1, steps, self.detector.name)
        with _neighbour():
            beside = take_turns(engines, frames, rounds)
        progress(2, steps, self.detector.name)
        rows = []
        for step, (name, chosen) in enumerate(made.items(), 3):
            p50 = _median_ms(alone[name])
            parity = chosen.proof.report.as_json()
            rows.append(
                {
                    "engine": f"{self.detector.name} {name}",
                    "p50_ms": p50,
                    "p99_ms": percentile(alone[name], 99),
                    "ratio": round(p50 / _median_ms(alone[_REFERENCE]), 3),
                    "frames_per_s": 1000 / p50,
                    "beside_p50_ms": percentile(beside[name], 50),
                    "beside_p99_ms": percentile(beside[name], 99),
                    **self._fresh(chosen),
                    "compile_s": self._compile_s(chosen),
                    "gflops": gflop / p50 * 1000,
                    "roofline": gflop / p50 * 1000 / ceiling,
                    "score_difference": parity["score_difference"],
                    "map_difference": parity["map_difference"],
                }
            )
            progress(step, steps, self.detector.name)
        return rows

    def _variants(self) -> Iterator[tuple[str, EngineSettings]]:
        """Yield the name and settings of eager, and of every engine that is approved for this template."""
        wish = EngineSettings.of(self.station.worker)
        yield _REFERENCE, replace(wish, backend="eager", precision="fp32")
        for precision in PRECISIONS[self.station.worker.device.partition(":")[0]]:
            one = replace(wish, backend="inductor", precision=precision)
            found = self._approvals(one)
            if found and all(found):
                yield f"inductor {precision}", one

    def _approvals(self, wish: EngineSettings) -> list[Mapping[str, Any] | None]:
        target = wish.target(self.station.worker.device, self.threads)
        names = (
            approval_name(self.detector, self.template.digest, shape, target)
            for shape in shapes_of(self.template.golden())
        )
        return [read_approval(wish.cache(), name) for name in names]

    def _chosen(self, wish: EngineSettings) -> Chosen:
        return choose(self.detector, self.template, wish, self.station.worker.device, self.threads)

    def _wish_of(self, chosen: Chosen) -> EngineSettings:
        return replace(EngineSettings.of(self.station.worker), backend=chosen.backend, precision=chosen.precision)

    def _compile_s(self, chosen: Chosen) -> float | None:
        if chosen.backend == "eager":
            return None
        wish = self._wish_of(chosen)
        entries = [wish.cache().find(str(approved["key"])) for approved in self._approvals(wish) if approved]
        return sum(float(entry.record.get("compile_s", 0.0)) for entry in entries if entry)

    def _fresh(self, chosen: Chosen) -> dict[str, float]:
        """Start a process that loads and inspects as a worker does; return seconds to its first result, and memory."""
        setup = {
            "builtins": list(self.builtins),
            "detector": self.detector.name,
            "store": str(self.station.store),
            "template": self.template.digest,
            "device": self.station.worker.device,
            "threads": self.threads,
            "engine": self._wish_of(chosen).as_json(),
        }
        started = time.monotonic()
        command = [sys.executable, "-P", "-c", _FRESH, json.dumps(setup)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FRESH_TIMEOUT_S, check=False)
        first_s = time.monotonic() - started
        if done.returncode != 0:
            raise EngineError(f"bench: a fresh worker failed: {' '.join(done.stderr.split())[-300:]}")
        return {"first_s": round(first_s, 2), "rss_mb": round(int(done.stdout.splitlines()[-1]) / 1024)}


def _median_ms(microseconds: list[int]) -> float:
    return microseconds[len(microseconds) // 2] / 1000


def _gflop(engine: Engine, frame: np.ndarray) -> float:
    """Return the eager graph's multiplications and additions for one frame, in thousand millions."""
    with FlopCounterMode(display=False) as counter:
        engine.infer(frame)
    return float(counter.get_total_flops()) / 1e9


def _ceiling(station: Station) -> float:
    """Return the GFLOP/s of one large fp32 matrix product with the station's threads: the best of ten."""
    device = torch.device(station.worker.device)
    torch.set_num_threads(station.worker.threads or len(os.sched_getaffinity(0)))
    side = 1024
    a, b = torch.rand((side, side), device=device), torch.rand((side, side), device=device)
    best = 0.0
    for _ in range(10):
        started = time.perf_counter()
        (a @ b)[0, 0].item()
        best = max(best, 2 * side**3 / (time.perf_counter() - started) / 1e9)
    return best


@contextmanager
def _neighbour() -> Iterator[None]:
    """Keep one core busy with another process, as a camera driver or the host might."""
    program = "import os, sys\nparent = int(sys.argv[1])\nwhile os.getppid() == parent:\n sum(range(100_000))\n"
    process = subprocess.Popen([sys.executable, "-P", "-c", program, str(os.getpid())], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


_FRESH = """
import json, resource, sys
from runtime.engines.openmp import wait_passively
wait_passively()
from pathlib import Path
from runtime.store import Store
from runtime.worker.process import load
setup = json.loads(sys.argv[1])
chosen = load(setup)
chosen.engine.infer(Store(Path(setup["store"])).template(setup["template"]).golden()[0].frame)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""
