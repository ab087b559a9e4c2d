"""The job behind `edgead calibrate`: from a folder of good parts to a template, its report, and a summary."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.calibrate import CalibrationOptions, Progress, calibrate, save
from calibration.dataset import references_from
from calibration.held_out import shortfalls
from calibration.jobs.checks import (
    check_device,
    check_log_entry,
    check_product,
    check_target,
    chosen_settings,
    make_room,
)
from calibration.references import References
from calibration.report import write_report
from runtime.registry import Registry
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity


@dataclass(frozen=True, kw_only=True)
class CalibrationJob:
    """What `edgead calibrate` was asked."""

    dataset: Path
    product: str
    detector: str
    store: Path
    preset: str | None = None
    settings: list[str] = field(default_factory=list)
    activate: bool = False
    report: Path | None = None
    who: str = "unknown"
    why: str = ""
    options: CalibrationOptions = field(default_factory=CalibrationOptions)


def run_calibration(job: CalibrationJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Calibrate, store, report, and activate if asked; return the summary `edgead calibrate --json` prints."""
    detector = registry.detector(job.detector)
    settings = chosen_settings(detector, job.preset, job.settings)
    check_target(job.options.false_reject)
    check_device(job.options.device)
    check_product(job.product)
    check_log_entry(job.who, job.why)
    identity = DetectorIdentity(
        name=detector.name, version=detector.version, distribution=registry.detectors[detector.name].distribution
    )
    references = References(references_from(job.dataset))
    store = Store.create(job.store)
    if job.report:
        make_room(job.report)
    started = time.monotonic()
    calibration = calibrate(detector, references, settings, job.options, progress)
    seconds = time.monotonic() - started
    template = save(calibration, store, product=job.product, detector=identity, who=job.who, why=job.why)
    report = job.report or make_room(job.store / "reports" / f"{template.digest[:12]}.html")
    write_report(calibration, template, report)
    if job.options.materials.checkpoint:
        job.options.materials.checkpoint.clear()
    if job.activate:
        store.activate(template.digest, who=job.who, why=job.why or "calibrated")
    thresholds = calibration.thresholds
    return {
        "template": template.digest,
        "product": job.product,
        "detector": detector.name,
        "active": job.activate,
        "n_references": len(calibration.references),
        "image_threshold": thresholds.image,
        "pixel_threshold": thresholds.pixel,
        "false_reject_target": thresholds.target,
        "false_reject_bound": thresholds.bound,
        "held_out": thresholds.held_out,
        "calibrate_s": round(seconds, 3),
        "bank_mb": round(template.manifest.bank.size / 1e6, 2),
        "report": str(report),
        "warnings": shortfalls(thresholds),
    }
