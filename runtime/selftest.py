"""What a worker proves before it is ready: this detector answers this template's golden frames as it did.

A template runs only under the detector version that calibrated it, and only where the golden frames give the stored
scores and maps; otherwise its threshold would judge scores it was never chosen for. While idle the worker answers one
of them again from time to time: memory, driver and device may fail later than at the start.
"""

from __future__ import annotations

import numpy as np

from runtime.engine import Engine
from runtime.errors import TemplateError
from runtime.template import GoldenFrame, Template

#: Largest difference from a golden score or map value: this share of the value plus this much. Rounding on another
#: processor is far below it, another detector, setting or weight file far above.
RELATIVE, ABSOLUTE = 1e-3, 1e-4


def check_version(template: Template, installed: str) -> None:
    """Refuse a template that another version of its detector calibrated."""
    made_by = template.manifest.detector
    if made_by.version != installed:
        raise TemplateError(
            f"template {template.digest[:12]}: expected {made_by.name} version {made_by.version}, which calibrated it, "
            f"found {installed} installed: calibrate again, or install that version"
        )


def self_test(engine: Engine, template: Template) -> GoldenFrame | None:
    """Answer every golden frame and compare; ``TemplateError`` names the first that differs.

    Warms the engine up as well. Returns the first golden frame, in memory of its own, for ``check_golden`` while idle.
    """
    frames = template.golden()
    if not frames:
        engine.infer(np.zeros((64, 64), np.uint8))  # a detector that cannot answer at all must not look ready
        return None
    for index, golden in enumerate(frames):
        check_golden(engine, golden, f"template {template.digest[:12]}, golden frame {index}")
    first = frames[0]  # the decoded ones are views of the bytes of all
    return GoldenFrame(first.frame.copy(), first.anomaly_map.copy(), first.score)


def check_golden(engine: Engine, golden: GoldenFrame, where: str) -> None:
    """Answer one golden frame and compare; ``TemplateError``, beginning with ``where``, if score or map differ."""
    result = engine.infer(golden.frame)
    score_ok = np.isclose(result.score, golden.score, rtol=RELATIVE, atol=ABSOLUTE)
    map_ok = np.allclose(result.anomaly_map, golden.anomaly_map, rtol=RELATIVE, atol=ABSOLUTE)
    if not (score_ok and map_ok):
        worst = float(np.abs(result.anomaly_map - golden.anomaly_map).max())
        raise TemplateError(
            f"{where}: expected score {golden.score:.6g}, found {result.score:.6g}; the map differs by up to "
            f"{worst:.3g}: another processor, library or weight file? Calibrate again on this machine"
        )
