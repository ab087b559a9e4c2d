"""Building: export, look up, compile what is missing, and let the engine prove itself on the template's golden frames.

Only what passes the parity gate is approved, and only what is approved is loaded by a worker. An engine that fails
stays in the cache unapproved: it may be right for another template of the same program. Where a station wants several
frames answered at once, an engine for so many is built beside the one for one frame; what is wrong with it costs no
more than that frames go one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from runtime.detector import Detector
from runtime.engines.approvals import withdraw_approval, write_approval
from runtime.engines.backends import load, runs_here
from runtime.engines.cache import EngineCache, Entry
from runtime.engines.company import prove
from runtime.engines.engine import Engine
from runtime.engines.entries import Job, find_or_compile
from runtime.engines.entries import Progress as Progress
from runtime.engines.parity import GoldenReport, compare_golden
from runtime.engines.program import Program
from runtime.engines.shapes import Shape, shapes_of
from runtime.engines.target import Target
from runtime.errors import EngineError
from runtime.store.template import Template


@dataclass(frozen=True)
class Built:
    """One engine of one template. ``compiled``: it was made now, not found. ``seconds``: all it took, gate aside.

    ``batch``: frames it answers at once. ``note``: why it will not be used, "" where it will.
    """

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
    batch: int = 1
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"shape": list(self.shape)}


def build(
    detector: Detector, template: Template, target: Target, cache: EngineCache, progress: Progress, *, batch: int = 1
) -> list[Built]:
    """Build and approve the engines of one template; what is there and whole is not built again.

    With ``batch`` greater than 1 so many frames at once get engines, too; one that fails is in the list with a note.
    An engine for TensorRT-RTX is built without a GPU, too; then nobody has compared it, and it is not approved. Raises
    ``EngineError`` when an engine for one frame cannot be compiled, or when the gate refuses it: then nothing is
    approved.
    """
    if target.precision == "int8" and (target.backend, target.device) != ("inductor", "cpu"):
        raise EngineError(
            f"precision int8: expected the inductor backend on a cpu, found {target.backend} on {target.device}, which "
            "it was not made for; set worker.precision to fp16 or fp32"
        )
    job = Job(detector, template, template.content(), template.golden(), target, cache, progress)
    shapes = shapes_of(job.golden)
    if not shapes:
        raise EngineError(
            f"template {template.digest[:12]}: expected golden frames, found none: an engine cannot prove itself "
            "without; calibrate again, or run it with worker.backend eager"
        )
    cache.make()
    alone = _build_alone(job, shapes)
    return alone if batch == 1 else alone + _build_together(replace(job, batch=batch), shapes)


def _build_alone(job: Job, shapes: list[Shape]) -> list[Built]:
    """Build, prove and approve the engines for one frame."""
    made = {shape: find_or_compile(job, shape) for shape in shapes}
    if not runs_here(job.target):
        # Another machine's: its workers let the golden frames decide when they load it (``choice``).
        return _records(job, made, {"map_difference": None, "note": "not compared: no GPU here"})
    report = _gate(job, {shape: load(entry, job.target) for shape, (entry, _, _) in made.items()})
    if not report.passed:
        for shape in shapes:
            withdraw_approval(job.cache, job.name(shape))
        raise EngineError(_refusal(job, report) + "; what runs now stays")
    for shape, (entry, _, _) in made.items():
        write_approval(job.cache, job.name(shape), job.record(entry.key, report))
    return _records(job, made, report.as_json())


def _build_together(job: Job, shapes: list[Shape]) -> list[Built]:
    """Build, prove and approve the engines for several frames; what stands against them is noted and kept."""
    try:
        made = {shape: find_or_compile(job, shape) for shape in shapes}
        if not runs_here(job.target):
            return _records(job, made, {"map_difference": None, "note": "not compared: no GPU here"})
        report = _gate_together(job, {shape: load(entry, job.target) for shape, (entry, _, _) in made.items()})
    except EngineError as error:
        return [_record(job, shape, note=f"frames go one by one: {error}") for shape in shapes]
    refused = "" if report.passed else _refusal(job, report)
    for shape, (entry, _, _) in made.items():
        write_approval(job.cache, job.name(shape), job.record(entry.key, report, refused))
    return _records(job, made, report.as_json(), refused and f"frames go one by one: {refused}")


def _gate_together(job: Job, programs: Mapping[Shape, Program]) -> GoldenReport:
    """Answer every golden frame in company with the programs, and compare as ``_gate`` does."""
    target, threshold = job.target, job.template.manifest.thresholds.image
    engine = Engine(job.detector, job.content, device=target.device, threads=target.threads)
    return prove(engine, programs, job.batch, job.golden, threshold=threshold, precision=target.precision)


def _refusal(job: Job, report: GoldenReport) -> str:
    several = "" if job.batch == 1 else f" for {job.batch} frames at once"
    return (
        f"template {job.template.digest[:12]}: the parity gate refuses the {job.target.backend} engine in "
        f"{job.target.precision}{several}: {report.sentence()}"
    )


def _records(
    job: Job, made: Mapping[Shape, tuple[Entry, bool, float]], parity: Mapping[str, Any], note: str = ""
) -> list[Built]:
    return [
        replace(
            _record(job, shape, parity, note),
            key=entry.key,
            compiled=compiled,
            seconds=round(seconds, 2),
            size=sum(path.stat().st_size for path in entry.folder.iterdir()),
        )
        for shape, (entry, compiled, seconds) in made.items()
    ]


def _record(job: Job, shape: Shape, parity: Mapping[str, Any] | None = None, note: str = "") -> Built:
    """Return the record of an engine that was not built; its parity says of what it is not."""
    return Built(
        template=job.template.digest,
        detector=job.detector.name,
        shape=shape,
        backend=job.target.backend,
        precision=job.target.precision,
        key="",
        compiled=False,
        seconds=0.0,
        size=0,
        parity=parity or {"map_difference": None},
        batch=job.batch,
        note=note,
    )


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

    Nothing is proven or approved by it. Raises as ``build``.
    """
    job = Job(detector, template, template.content(), template.golden(), target, cache, progress, batch)
    cache.make()
    return load(find_or_compile(job, shape)[0], target)


def _gate(job: Job, programs: Mapping[Shape, Program]) -> GoldenReport:
    """Answer every golden frame with the programs, and compare with what the eager reference answered."""
    target = job.target
    engine = Engine(job.detector, job.content, device=target.device, threads=target.threads, programs=programs)
    found = [engine.infer(each.frame) for each in job.golden]
    return compare_golden(job.golden, found, job.template.manifest.thresholds.image, target.precision)
