"""`edgead bench detector`: the engines of a station's templates side by side, in one run, with the reference.

Figures on shared machines are noise; engines take turns frame by frame, so their ratios are not. What was not built is
not measured: `edgead build` makes it first. Programs for several frames at once are compiled here where they are
missing, for any number, and not approved by it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from runtime.client.watch import percentile
from runtime.detector import Detector
from runtime.doctor import cpu_name
from runtime.engines.ahead import wanted
from runtime.engines.approvals import approval_name, read_approval
from runtime.engines.build import build_batch
from runtime.engines.choice import Chosen, choose
from runtime.engines.engine import export
from runtime.engines.first_result import first_result, neighbour
from runtime.engines.precision import PRECISIONS, lower
from runtime.engines.program import Program
from runtime.engines.roofline import Ceilings, Operation, measure_ceilings, operations_of
from runtime.engines.settings import EngineSettings
from runtime.engines.shapes import Shape, shapes_of
from runtime.engines.target import installed
from runtime.engines.timing import take_turns, time_batches
from runtime.errors import EngineError
from runtime.registry import Registry
from runtime.station.config import Station
from runtime.store.template import GoldenFrame, Template

Progress = Callable[[int, int, str], None]
_REFERENCE = "eager fp32"
#: Turns each engine has with a batch: a batch takes several frames' time.
_BATCH_ROUNDS = 10


def bench_detector(
    station: Station,
    registry: Registry,
    builtins: tuple[str, ...],
    progress: Progress,
    *,
    rounds: int,
    batch: int = 1,
) -> dict[str, Any]:
    """Return {"engines": [...], "machine": {...}} for every template of ``station``; each engine answers ``rounds``.

    Per engine, in milliseconds over the golden frames at batch 1: p50, p99; the same beside a process that keeps a core
    busy; ``ratio``: its p50 over eager's. ``batch_frames_per_s``: with ``batch`` frames at once, ``batch_ratio``:
    that over one frame at a time, in the same turns; null for 1.
    ``first_warm_s``: seconds from starting a process to its first result, as a worker starts; ``first_cold_s``: with
    the compilation, as long as it took when it was built; ``rss_mb``: that process's largest memory. ``gflop``,
    ``mbytes``: of the convolutions and matrix products of one frame; ``floor_ms``: the least time these take at the
    ceilings measured in the same run; ``roofline``: its share of p50 (``runtime.engines.roofline``).
    """
    threads = station.worker.threads or len(os.sched_getaffinity(0))
    rows, measured = [], {}
    for detector, template, device in wanted(station, registry):
        if device not in measured:
            measured[device] = measure_ceilings(device, threads)
        case = _Case(station, builtins, detector, template, device, batch)
        rows += case.rows(progress, rounds, measured[device])
    machine = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_1min": round(os.getloadavg()[0], 2),
        "torch": installed("torch"),
        "python": platform.python_version(),
        "rounds": rounds,
        "batch": batch,
        "ceilings": {device: each.as_json() for device, each in measured.items()},
    }
    return {"engines": rows, "machine": machine}


@dataclass(frozen=True)
class _Case:
    """One template, and the engines there are for it."""

    station: Station
    builtins: tuple[str, ...]
    detector: Detector
    template: Template
    device: str
    batch: int

    @property
    def threads(self) -> int:
        """CPU threads of each engine."""
        return self.station.worker.threads or len(os.sched_getaffinity(0))

    def rows(self, progress: Progress, rounds: int, ceilings: Ceilings) -> list[dict[str, Any]]:
        """Measure; see ``bench_detector``."""
        golden = self.template.golden()
        frames = [each.frame for each in golden]
        if not frames:
            raise EngineError(f"template {self.template.digest[:12]}: expected golden frames to time, found none")
        made = {name: self._chosen(wish) for name, wish in self._variants()}
        engines = {name: chosen.engine for name, chosen in made.items()}
        steps = 3 + len(made)
        progress(0, steps, self.detector.name)
        alone = take_turns(engines, frames, rounds)
        progress(1, steps, self.detector.name)
        with neighbour():
            beside = take_turns(engines, frames, rounds)
        progress(2, steps, self.detector.name)
        batched = self._batched(made, golden, progress)
        progress(3, steps, self.detector.name)
        reference = _median_ms(alone[_REFERENCE])
        rows = []
        for step, (name, chosen) in enumerate(made.items(), 4):
            times = _times(alone[name], beside[name])
            rows.append(
                {"engine": f"{self.detector.name} {name}", **times, "ratio": round(times["p50_ms"] / reference, 3)}
                | batched.get(name, {"batch_frames_per_s": None, "batch_ratio": None})
                | self._starts(chosen)
                | self._floor(chosen.precision, times["p50_ms"], golden, ceilings)
                | {key: chosen.proof.report.as_json()[key] for key in ("score_difference", "map_difference")}
            )
            progress(step, steps, self.detector.name)
        return rows

    def _variants(self) -> Iterator[tuple[str, EngineSettings]]:
        """Yield the name and settings of eager, and of every engine that is approved for this template."""
        wish = replace(EngineSettings.of(self.station.worker), batch=1)
        yield _REFERENCE, replace(wish, backend="eager", precision="fp32")
        for precision in PRECISIONS[self.device.partition(":")[0]]:
            one = replace(wish, backend=_compiled_backend(wish), precision=precision)
            found = self._approvals(one)
            if found and all(found):
                yield f"{one.backend} {precision}", one

    def _approvals(self, wish: EngineSettings) -> list[Mapping[str, Any] | None]:
        target = wish.target(self.device, self.threads)
        names = (
            approval_name(self.detector, self.template.digest, shape, target)
            for shape in shapes_of(self.template.golden())
        )
        return [read_approval(wish.cache(), name) for name in names]

    def _chosen(self, wish: EngineSettings) -> Chosen:
        return choose(self.detector, self.template, wish, self.device, self.threads)

    def _wish_of(self, chosen: Chosen) -> EngineSettings:
        wish = EngineSettings.of(self.station.worker)
        return replace(wish, backend=chosen.backend, precision=chosen.precision, batch=1)

    def _batched(
        self, made: Mapping[str, Chosen], golden: list[GoldenFrame], progress: Progress
    ) -> dict[str, dict[str, float | None]]:
        """Return what ``batch`` frames of the most frequent shape at once bring, for every engine: they take turns."""
        if self.batch == 1:
            return {}
        shape = shapes_of(golden)[0]
        frames = np.stack([each.frame.reshape(shape) for each in golden if each.frame.size == np.prod(shape)])
        bank = tuple(made[_REFERENCE].engine.bank.values())
        many, cases = torch.from_numpy(np.resize(frames, (self.batch, *shape))).to(bank[0].device), {}
        for name, chosen in made.items():
            one = chosen.engine.program(shape)
            cases[name, 1] = one, many[:1]
            cases[name, self.batch] = self._together(chosen, shape, progress) or one, many
        times = time_batches(cases, bank, _BATCH_ROUNDS)
        rates = {(name, size): size * 1000 / _median_ms(values) for (name, size), values in times.items()}
        return {
            name: {
                "batch_frames_per_s": rates[name, self.batch],
                "batch_ratio": round(rates[name, self.batch] / rates[name, 1], 3),
            }
            for name in made
        }

    def _together(self, chosen: Chosen, shape: Shape, progress: Progress) -> Program | None:
        """Return an engine's program for ``batch`` frames; None for eager, whose graph takes any number."""
        if chosen.backend == "eager":
            return None
        wish = self._wish_of(chosen)
        target = wish.target(self.device, self.threads)
        return build_batch(
            self.detector, self.template, shape, target, wish.cache(), batch=self.batch, progress=progress
        )

    def _starts(self, chosen: Chosen) -> dict[str, float]:
        setup = {
            "builtins": list(self.builtins),
            "detector": self.detector.name,
            "store": str(self.station.store),
            "template": self.template.digest,
            "device": self.device,
            "threads": self.threads,
            "priority": "normal",
            "shared": False,
            "engine": self._wish_of(chosen).as_json(),
        }
        warm_s, rss_mb = first_result(setup)
        cold_s = warm_s + self._compile_s(chosen)
        return {"first_warm_s": round(warm_s, 2), "first_cold_s": round(cold_s, 2), "rss_mb": rss_mb}

    def _compile_s(self, chosen: Chosen) -> float:
        if chosen.backend == "eager":
            return 0.0
        wish = self._wish_of(chosen)
        entries = [wish.cache().find(str(approved["key"])) for approved in self._approvals(wish) if approved]
        return sum(float(entry.record.get("compile_s", 0.0)) for entry in entries if entry)

    def _floor(
        self, precision: str, p50_ms: float, golden: list[GoldenFrame], ceilings: Ceilings
    ) -> dict[str, float | None]:
        found = self._operations(precision, golden)
        floor = ceilings.floor_ms(found) if {each.precision for each in found} <= ceilings.peaks.keys() else None
        return {
            "gflop": round(sum(each.flop for each in found) / 1e9, 3),
            "mbytes": round(sum(each.moved for each in found) / 1e6, 1),
            "floor_ms": floor,
            "roofline": None if floor is None else round(floor / p50_ms, 3),
        }

    def _operations(self, precision: str, golden: list[GoldenFrame]) -> list[Operation]:
        """Return what the program of the most frequent frame shape calculates, in its number format."""
        content, shape = self.template.content(), shapes_of(golden)[0]
        program = lower(export(self.detector, content, shape), precision)
        if precision == "int8":
            from runtime.engines.quantisation import quantise

            frame = next(each.frame for each in golden if each.frame.size == np.prod(shape))
            bank = self.detector.bank(content).values()
            program, _ = quantise(program, [(torch.from_numpy(frame.reshape(1, *shape)), *bank)])
        return operations_of(program)


def _compiled_backend(wish: EngineSettings) -> str:
    return "inductor" if wish.backend in {"eager", "auto"} else wish.backend


def _times(alone: list[int], beside: list[int]) -> dict[str, Any]:
    p50 = _median_ms(alone)
    return {
        "p50_ms": p50,
        "p99_ms": percentile(alone, 99),
        "frames_per_s": 1000 / p50,
        "beside_p50_ms": percentile(beside, 50),
        "beside_p99_ms": percentile(beside, 99),
    }


def _median_ms(microseconds: list[int]) -> float:
    return microseconds[len(microseconds) // 2] / 1000
