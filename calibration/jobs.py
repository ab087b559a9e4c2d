"""The jobs behind `edgead calibrate` and `edgead evaluate`: from paths and names to a stored template or a record of figures."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from calibration.calibrate import CalibrationOptions, Progress, calibrate, learn, resolve_settings, save
from calibration.dataset import read_dataset, references_from
from calibration.evaluate import evaluate, write_maps, write_scores
from calibration.references import References
from calibration.report import write_report
from runtime.detector import Detector, TemplateContent
from runtime.engine import Engine
from runtime.errors import ConfigError
from runtime.manifest import DetectorIdentity
from runtime.presets import load_preset
from runtime.registry import Registry
from runtime.store import Store
from runtime.yamlfile import parse_value


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
    options: CalibrationOptions = CalibrationOptions()


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """What `edgead evaluate` was asked."""

    dataset: Path
    detector: str
    preset: str | None = None
    settings: list[str] = field(default_factory=list)
    template: str | None = None
    store: Path = Path("store")
    scores: Path | None = None
    maps: Path | None = None
    options: CalibrationOptions = CalibrationOptions()


def run_calibration(job: CalibrationJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Calibrate, store, report, and activate if asked; return the summary `edgead calibrate --json` prints."""
    detector = registry.detector(job.detector)
    settings = chosen_settings(detector, job.preset, job.settings)
    references = References(references_from(job.dataset))
    store = Store.create(job.store)
    started = time.monotonic()
    calibration = calibrate(detector, references, settings, job.options, progress)
    seconds = time.monotonic() - started
    identity = DetectorIdentity(
        name=detector.name, version=detector.version, distribution=registry.detectors[detector.name].distribution
    )
    template = save(calibration, store, product=job.product, detector=identity, who=job.who, why=job.why)
    report = job.report or job.store / "reports" / f"{template.digest[:12]}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    write_report(calibration, template, report)
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
    }


def run_evaluation(job: EvaluationJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Score the test set, with a template of the store or one learnt from ``train/good``; return the public figures."""
    detector = registry.detector(job.detector)
    dataset = read_dataset(job.dataset)
    started = time.monotonic()
    content, template = _content(job, detector, dataset.references, progress)
    calibrate_s = None if job.template else round(time.monotonic() - started, 3)
    engine = Engine(detector, content, device=job.options.device, threads=job.options.threads)
    evaluation = evaluate(engine, dataset, progress)
    if job.scores:
        write_scores(evaluation, job.scores)
    if job.maps:
        write_maps(evaluation, job.maps)
    overall = evaluation.overall.as_json()
    del overall["n"]
    return {
        "detector": detector.name,
        **overall,
        "per_class": {label: measures.as_json() for label, measures in evaluation.per_class.items()},
        "n_references": content.valid,
        "n_test": len(evaluation.scored),
        "calibrate_s": calibrate_s,
        "latency_ms_p50": round(evaluation.latency_ms(50), 3),
        "latency_ms_p99": round(evaluation.latency_ms(99), 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "template": template,
        "settings": dict(content.settings),
    }


def chosen_settings(detector: Detector, preset: str | None, assignments: list[str]) -> BaseModel:
    """Return the detector's settings: defaults, then the preset, then each KEY=VALUE."""
    given: dict[str, Any] = {}
    if preset:
        loaded = load_preset(preset)
        if loaded.detector != detector.name:
            raise ConfigError(f"preset {preset}: expected one for {detector.name}, found one for {loaded.detector}")
        given.update(loaded.settings)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set: expected KEY=VALUE, found {assignment!r}")
        given[key.strip()] = parse_value(value)
    return resolve_settings(detector, given)


def _content(
    job: EvaluationJob, detector: Detector, references: Any, progress: Progress
) -> tuple[TemplateContent, str | None]:
    """Return what to evaluate and the id of the template it came from (None: learnt here and not stored)."""
    if job.template is None:
        settings = chosen_settings(detector, job.preset, job.settings)
        return learn(detector, References(references), settings, job.options, progress), None
    if job.preset or job.settings:
        raise ConfigError("--template carries its own settings: expected no --preset or --set beside it")
    template = Store(job.store).template(job.template)
    if template.manifest.detector.name != detector.name:
        raise ConfigError(
            f"template {template.digest[:12]} belongs to {template.manifest.detector.name}: add --detector {template.manifest.detector.name}"
        )
    return template.content(), template.digest
