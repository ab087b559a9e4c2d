"""Building: export, look up, compile what is missing, and let the engine prove itself on the template's golden frames.

Only what passes the parity gate is approved, and only what is approved is loaded by a worker. An engine that fails
stays in the cache unapproved: it may be right for another template of the same program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from runtime.detector import Detector, TemplateContent
from runtime.engines.approvals import approval_name, read_approval, withdraw_approval, write_approval
from runtime.engines.backends import backend_of, load, runs_here
from runtime.engines.cache import EngineCache, Entry
from runtime.engines.engine import Engine, export
from runtime.engines.key import engine_key
from runtime.engines.parity import GoldenReport, compare_golden
from runtime.engines.precision import lower
from runtime.engines.program import Program, layouts
from runtime.engines.shapes import Shape, shapes_of
from runtime.engines.target import Target
from runtime.errors import EngineError
from runtime.store.template import GoldenFrame, Template

Progress = Callable[[int, int, str], None]

#: Seconds a compilation is expected to take, for the progress bar only.
_EXPECTED_S = 60


@dataclass(frozen=True)
class Built:
    """One engine of one template. ``compiled``: it was made now, not found. ``seconds``: all it took, gate aside."""

    template: str
    detector: str
    shape: Shape
    backend: str
    precision: str
    key: str
    compiled: bool
    seconds: float
    size: int
    parity: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"shape": list(self.shape)}


@dataclass(frozen=True)
class _Job:
    """One template and what its engines are for."""

    detector: Detector
    template: Template
    content: TemplateContent
    golden: list[GoldenFrame]
    target: Target
    cache: EngineCache
    progress: Progress
    batch: int = 1

    def name(self, shape: Shape) -> str:
        """Return the name of the approval for frames of ``shape``."""
        return approval_name(self.detector, self.template.digest, shape, self.target)


def build(
    detector: Detector, template: Template, target: Target, cache: EngineCache, progress: Progress
) -> list[Built]:
    """Build and approve the engines of one template; what is there and whole is not built again.

    An engine for TensorRT-RTX is built without a GPU, too; then nobody has compared it, and it is not approved. Raises
    ``EngineError`` when it cannot be compiled, or when the gate refuses it: then nothing is approved.
    """
    if target.precision == "int8" and (target.backend, target.device) != ("inductor", "cpu"):
        raise EngineError(
            f"precision int8: expected the inductor backend on a cpu, found {target.backend} on {target.device}, which "
            "it was not made for; set worker.precision to fp16 or fp32"
        )
    job = _Job(detector, template, template.content(), template.golden(), target, cache, progress)
    shapes = shapes_of(job.golden)
    if not shapes:
        raise EngineError(
            f"template {template.digest[:12]}: expected golden frames, found none: an engine cannot prove itself "
            "without; calibrate again, or run it with worker.backend eager"
        )
    cache.make()
    made = {shape: _entry(job, shape) for shape in shapes}
    if not runs_here(target):
        # Another machine's: its workers let the golden frames decide when they load it (``choice``).
        return _records(job, made, {"map_difference": None, "note": "not compared: no GPU here"})
    report = _gate(job, {shape: load(entry, target) for shape, (entry, _, _) in made.items()})
    if not report.passed:
        for shape in shapes:
            withdraw_approval(cache, job.name(shape))
        raise EngineError(
            f"template {template.digest[:12]}: the parity gate refuses the {target.backend} engine in "
            f"{target.precision}: {report.sentence()}; what runs now stays"
        )
    for shape, (entry, _, _) in made.items():
        write_approval(cache, job.name(shape), {"key": entry.key, "parity": report.as_json()})
    return _records(job, made, report.as_json())


def _records(job: _Job, made: Mapping[Shape, tuple[Entry, bool, float]], parity: Mapping[str, Any]) -> list[Built]:
    return [
        Built(
            template=job.template.digest,
            detector=job.detector.name,
            shape=shape,
            backend=job.target.backend,
            precision=job.target.precision,
            key=entry.key,
            compiled=compiled,
            seconds=round(seconds, 2),
            size=sum(path.stat().st_size for path in entry.folder.iterdir()),
            parity=parity,
        )
        for shape, (entry, compiled, seconds) in made.items()
    ]


def build_batch(
    detector: Detector,
    template: Template,
    shape: Shape,
    target: Target,
    cache: EngineCache,
    *,
    batch: int,
    progress: Progress,
) -> Program:
    """Return a program for ``batch`` frames of one shape at once, compiled where it is missing; for benches.

    Nothing is approved by it: a worker's engines answer one frame at a time. Raises as ``build``.
    """
    job = _Job(detector, template, template.content(), template.golden(), target, cache, progress, batch)
    cache.make()
    return load(_entry(job, shape)[0], target)


def program_key(
    detector: Detector, content: TemplateContent, shape: Shape, target: Target, batch: int = 1
) -> tuple[str, ExportedProgram]:
    """Export for one frame shape; return the engine's key, and the program in the target's precision.

    An int8 program is still in fp32: its scales are chosen when it is compiled, and whoever has the same program finds
    the engine made with the scales of whoever came first. Whether they suit another template is the gate's to say.
    """
    program = lower(export(detector, content, shape, batch), target.precision)
    options = dict(backend_of(target.backend).options)
    if target.precision == "int8":
        from runtime.engines.quantisation import VERSION

        options["quantisation"] = VERSION
    return engine_key(program, target, options), program


def _gate(job: _Job, programs: Mapping[Shape, Program]) -> GoldenReport:
    """Answer every golden frame with the programs, and compare with what the eager reference answered."""
    target = job.target
    engine = Engine(job.detector, job.content, device=target.device, threads=target.threads, programs=programs)
    found = [engine.infer(each.frame) for each in job.golden]
    return compare_golden(job.golden, found, job.template.manifest.thresholds.image, target.precision)


def _find_whole(cache: EngineCache, key: str) -> Entry | None:
    """Return a whole entry; one that is damaged is removed, and counts as none."""
    try:
        return cache.find(key)
    except EngineError:
        cache.remove(key)
        return None


def _entry(job: _Job, shape: Shape) -> tuple[Entry, bool, float]:
    """Return the engine's entry, whether it was compiled now, and the seconds that took."""
    started = time.monotonic()
    approved = read_approval(job.cache, job.name(shape)) if job.batch == 1 else None
    entry = None if approved is None else _find_whole(job.cache, approved["key"])
    if entry is not None:
        return entry, False, time.monotonic() - started
    sides = shape if job.batch == 1 else (job.batch, *shape)
    what = f"{job.detector.name} {' x '.join(map(str, sides))} {job.target.precision}"
    job.progress(0, 1, f"export {what}")
    key, program = program_key(job.detector, job.content, shape, job.target, job.batch)
    job.progress(1, 1, f"export {what}")
    entry = _find_whole(job.cache, key)
    if entry is not None:
        return entry, False, time.monotonic() - started
    with job.cache.builder(key) as folder:
        entry = _find_whole(job.cache, key)  # another builder may have been at it while we waited
        compiled = entry is None
        if entry is None:
            entry = job.cache.publish(key, folder, _compile(job, shape, program, folder, what))
    return entry, compiled, time.monotonic() - started


def _compile(job: _Job, shape: Shape, program: ExportedProgram, folder: Path, what: str) -> dict[str, Any]:
    """Compile into ``folder``; return the manifest's record."""

    def tick(seconds: float) -> None:
        job.progress(min(int(seconds), _EXPECTED_S - 1), _EXPECTED_S, f"compile {what}")

    quantised = _quantised(job, shape, program) if job.target.precision == "int8" else {}
    program = quantised.pop("program", program)
    record = quantised | dict(backend_of(job.target.backend).compile(program, folder, job.target, tick))
    job.progress(_EXPECTED_S, _EXPECTED_S, f"compile {what}")
    return record | {
        "inputs": [each.as_json() for each in layouts(job.detector, job.content, shape, job.batch)],
        "target": job.target.marks(),
        "detector": f"{job.detector.name} {job.detector.version}",
        "frame_shape": list(shape),
    }


def _quantised(job: _Job, shape: Shape, program: ExportedProgram) -> dict[str, Any]:
    """Return the ``program`` in 8 bits, scaled by the golden frames of ``shape``, and what the manifest says of it."""
    from runtime.engines.quantisation import quantise

    bank = tuple(job.detector.bank(job.content).values())
    frames = [each.frame for each in job.golden if (*each.frame.shape, 1)[:3] == shape]
    levels = [torch.from_numpy(each.reshape(shape)[None]).expand(job.batch, -1, -1, -1).contiguous() for each in frames]
    low, count = quantise(program, [(each, *bank) for each in levels])
    return {"program": low, "quantised": count, "scales_from": job.template.digest}
