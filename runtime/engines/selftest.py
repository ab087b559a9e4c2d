"""What a worker proves before it is ready: this detector answers this template's golden frames as it did.

A template runs only under the detector version that calibrated it, and only where the golden frames give the stored
scores and maps (``runtime.engines.parity`` says how nearly); otherwise its threshold would judge scores it was never
chosen for. While idle the worker answers one of them again from time to time: memory, driver and device may fail later
than at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.detector import DetectorResult
from runtime.engines.engine import Engine
from runtime.engines.parity import LIMITS, GoldenReport, Law, compare_under, law_of
from runtime.errors import TemplateError
from runtime.store.template import GoldenFrame, Template

#: Largest difference from a golden score or map value: this share of the value plus this much.
RELATIVE, ABSOLUTE = LIMITS["fp32"].relative, LIMITS["fp32"].absolute


@dataclass(frozen=True)
class KeptFrame:
    """One golden frame, in memory of its own, to be answered again while idle, under the law of all of them."""

    golden: GoldenFrame
    law: Law


@dataclass(frozen=True)
class SelfTest:
    """A self-test that was passed: every golden frame's figures, and one frame for later (None: there are none)."""

    report: GoldenReport
    kept: KeptFrame | None


def check_version(template: Template, installed: str) -> None:
    """Refuse a template that another version of its detector calibrated."""
    made_by = template.manifest.detector
    if made_by.version != installed:
        raise TemplateError(
            f"template {template.digest[:12]}: expected {made_by.name} version {made_by.version}, which calibrated it, "
            f"found {installed} installed: calibrate again, or install that version"
        )


def self_test(engine: Engine, template: Template, precision: str = "fp32") -> SelfTest:
    """Answer every golden frame and compare; ``TemplateError`` names every one that differs, with its figures.

    Warms the engine up as well. ``precision``: the one it calculates in, a key of ``runtime.engines.parity.LIMITS``.
    """
    frames = template.golden()
    if not frames:
        engine.infer(np.zeros((64, 64), np.uint8))  # a detector that cannot answer at all must not look ready
        return SelfTest(GoldenReport((), precision), None)
    law = law_of(frames, template.manifest.thresholds.image, precision)
    report = _answered(engine, frames, law, f"template {template.digest[:12]}")
    return SelfTest(report, keep(frames[0], law))


def keep(golden: GoldenFrame, law: Law) -> KeptFrame:
    """Return a copy of a golden frame: the decoded ones are views of the bytes of all, which would stay in memory."""
    return KeptFrame(GoldenFrame(golden.frame.copy(), golden.anomaly_map.copy(), golden.score), law)


def check_golden(engine: Engine, kept: KeptFrame, where: str) -> None:
    """Answer one golden frame and compare; ``TemplateError``, beginning with ``where``, if it comes out differently.

    Alone, and, where the engine answers several at once, at every place of a batch of it.
    """
    _answered(engine, [kept.golden], kept.law, where)
    if engine.batch > 1:
        found: list[DetectorResult] = []
        for answer in engine.infer_many([kept.golden.frame] * engine.batch):
            if isinstance(answer, Exception):
                raise answer
            found.append(answer)
        _compared([kept.golden] * len(found), found, kept.law, f"{where}, {len(found)} at once")


def _answered(engine: Engine, frames: Sequence[GoldenFrame], law: Law, where: str) -> GoldenReport:
    return _compared(frames, [engine.infer(each.frame) for each in frames], law, where)


def _compared(frames: Sequence[GoldenFrame], found: Sequence[DetectorResult], law: Law, where: str) -> GoldenReport:
    report = compare_under(law, frames, found)
    if not report.passed:
        raise TemplateError(
            f"{where}: {report.sentence()}: another processor, library or weight file? Calibrate again on this machine"
        )
    return report
