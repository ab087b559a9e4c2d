"""Finding an engine in the cache or compiling it: export, look up, compile what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from runtime.detector import Detector, TemplateContent
from runtime.engines.approvals import approval, approval_name, read_approval
from runtime.engines.backends import backend_of
from runtime.engines.cache import EngineCache, Entry
from runtime.engines.engine import export
from runtime.engines.key import engine_key
from runtime.engines.parity import GoldenReport
from runtime.engines.precision import lower
from runtime.engines.program import layouts
from runtime.engines.shapes import Shape
from runtime.engines.target import Target
from runtime.errors import EngineError
from runtime.store.template import GoldenFrame, Template

Progress = Callable[[int, int, str], None]

#: Seconds a compilation is expected to take, for the progress bar only.
_EXPECTED_S = 60


@dataclass(frozen=True)
class Job:
    """One template and what its engines are for; ``batch``: frames at once."""

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
        return approval_name(self.detector, self.template.digest, shape, self.target, self.batch)

    def record(self, key: str, report: GoldenReport, refused: str = "") -> dict[str, Any]:
        """Return what an approval of the engine ``key`` says."""
        return approval(key, report.as_json(), self.template.digest, refused)


def program_key(
    detector: Detector, content: TemplateContent, shape: Shape, target: Target, batch: int = 1
) -> tuple[str, ExportedProgram]:
    """Export for one frame shape; return the engine's key, and the program in the target's precision.

    An int8 program is still in fp32: its scales are chosen when it is compiled, and whoever has the same program finds
    the engine made with the scales of whoever came first. Whether they suit another template is the gate's to say.
    Raises ``EngineError`` where the graph cannot be exported.
    """
    try:
        program = lower(export(detector, content, shape, batch), target.precision)
    except Exception as error:  # the per-detector guard: whatever the graph raises, and torch of it
        frames = "a frame" if batch == 1 else f"{batch} frames at once"
        said = (str(error).splitlines() or [""])[0]
        raise EngineError(
            f"{detector.name}: expected its graph to be exported for {frames} of {' x '.join(map(str, shape))}, found "
            f"{type(error).__name__}: {said}; docs/detector-plugin.md says what a graph may do"
        ) from error
    options = dict(backend_of(target.backend).options)
    if target.precision == "int8":
        from runtime.engines.quantisation import VERSION

        options["quantisation"] = VERSION
    return engine_key(program, target, options), program


def _find_whole(cache: EngineCache, key: str) -> Entry | None:
    """Return a whole entry; one that is damaged is removed, and counts as none."""
    try:
        return cache.find(key)
    except EngineError:
        cache.remove(key)
        return None


def find_or_compile(job: Job, shape: Shape) -> tuple[Entry, bool, float]:
    """Return the engine's entry, whether it was compiled now, and the seconds that took."""
    started = time.monotonic()
    approved = read_approval(job.cache, job.name(shape))
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


def _compile(job: Job, shape: Shape, program: ExportedProgram, folder: Path, what: str) -> dict[str, Any]:
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


def _quantised(job: Job, shape: Shape, program: ExportedProgram) -> dict[str, Any]:
    """Return the ``program`` in 8 bits, scaled by the golden frames of ``shape``, and what the manifest says of it."""
    from runtime.engines.quantisation import quantise

    bank = tuple(job.detector.bank(job.content).values())
    frames = [each.frame for each in job.golden if (*each.frame.shape, 1)[:3] == shape]
    levels = [torch.from_numpy(each.reshape(shape)[None]).expand(job.batch, -1, -1, -1).contiguous() for each in frames]
    low, count = quantise(program, [(each, *bank) for each in levels])
    return {"program": low, "quantised": count, "scales_from": job.template.digest}
