"""The jobs behind `edgead calibrate` and `edgead evaluate`: from paths and names to a template or a record of figures.

Whatever can be known to be wrong before the long part of a job is refused before it.
"""

from __future__ import annotations

import math
import os
import re
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
from runtime.errors import ConfigError, TemplateError
from runtime.manifest import SLUG, DetectorIdentity, Thresholds
from runtime.presets import load_preset
from runtime.registry import Registry
from runtime.store import Store
from runtime.yamlfile import parse_value

#: Characters of who and why that a line of the ref log (``runtime.reflog.LogEntry``) takes.
_MOST_WHO, _MOST_WHY = 200, 2000


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
    options: CalibrationOptions = field(default_factory=CalibrationOptions)


def run_calibration(job: CalibrationJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Calibrate, store, report, and activate if asked; return the summary `edgead calibrate --json` prints."""
    detector = registry.detector(job.detector)
    settings = chosen_settings(detector, job.preset, job.settings)
    _check(job.options)
    if re.fullmatch(SLUG, job.product) is None:
        raise ConfigError(f"--product: expected 1 to 64 of a-z 0-9 _ . -, found {job.product!r}")
    _check_log_entry(job.who, job.why)
    identity = DetectorIdentity(
        name=detector.name, version=detector.version, distribution=registry.detectors[detector.name].distribution
    )
    references = References(references_from(job.dataset))
    store = Store.create(job.store)
    if job.report:
        _make_room(job.report)
    started = time.monotonic()
    calibration = calibrate(detector, references, settings, job.options, progress)
    seconds = time.monotonic() - started
    template = save(calibration, store, product=job.product, detector=identity, who=job.who, why=job.why)
    report = job.report or _make_room(job.store / "reports" / f"{template.digest[:12]}.html")
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
        "warnings": _promise_kept(thresholds),
    }


def run_evaluation(job: EvaluationJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Score the test set, with a template of the store or one learnt from ``train/good``; return the public figures."""
    detector = registry.detector(job.detector)
    _check(job.options)
    dataset = read_dataset(job.dataset)
    if not dataset.test:
        raise ConfigError(f"{dataset.root}: expected test images in test/good and test/<defect>, found none")
    for target in (job.scores, job.maps and job.maps / "map"):
        if target:
            _make_room(target)
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
        "warnings": list(dataset.warnings),
    }


def _promise_kept(thresholds: Thresholds) -> list[str]:
    """Tell what the integrator should know about the thresholds: none at all, or a promise worse than asked for."""
    target, bound = thresholds.target or 0.0, thresholds.bound
    if bound is None:
        return ["no good part was held out, so there are no thresholds: every verdict will be NotDecidable"]
    if bound <= target:
        return []
    promised = f"{thresholds.held_out} held-out good parts promise at most {bound:.1%} false rejects, not {target:.1%}"
    return [f"{promised}: that takes {math.ceil(1 / target) - 1}"]


def _check(options: CalibrationOptions) -> None:
    """Refuse a target that is no share, and a device that is not there, before a detector meets it."""
    import torch

    if not 0 < options.false_reject < 1:
        raise ConfigError(f"--false-reject: expected a share between 0 and 1, found {options.false_reject}")
    kind, _, number = options.device.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"--device: expected cpu, cuda or cuda:N, found {options.device!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device: expected a CUDA device for {options.device!r}, found {torch.cuda.device_count()}: "
            "see `edgead doctor`, or use cpu"
        )


def _check_log_entry(who: str, why: str) -> None:
    """Refuse what the ref log could not take once the calibration is done."""
    for option, text, least, most in (("--who", who, 1, _MOST_WHO), ("--why", why, 0, _MOST_WHY)):
        if not least <= len(text) <= most:
            raise ConfigError(f"{option}: expected {least} to {most} characters, found {len(text)}: reword it")


def _make_room(file: Path) -> Path:
    """Make the folder ``file`` is to be written into; return ``file``."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder of {file}: {error.strerror}; name another place") from error
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise ConfigError(f"expected a file that can be written, found {file}: name another place")
    return file


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
            f"template {template.digest[:12]} belongs to {template.manifest.detector.name}, not {detector.name}: "
            f"add --detector {template.manifest.detector.name}"
        )
    if template.manifest.detector.version != detector.version:
        raise TemplateError(
            f"template {template.digest[:12]}: expected one made by {detector.name} {detector.version}, which is "
            f"installed, found one made by version {template.manifest.detector.version}: calibrate again, or install "
            "that version"
        )
    return template.content(), template.digest
