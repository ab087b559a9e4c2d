"""The job behind `edgead evaluate`: from a labelled set of images to a record of figures."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.calibrate import CalibrationOptions, Progress, learn
from calibration.dataset import read_dataset
from calibration.evaluate import Evaluation, evaluate, write_maps, write_scores
from calibration.jobs.checks import check_device, chosen_settings, make_room
from calibration.references import References
from runtime.detector import Detector, TemplateContent
from runtime.engines.engine import Engine
from runtime.errors import ConfigError, TemplateError
from runtime.registry import Registry
from runtime.store import Store


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


def run_evaluation(job: EvaluationJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Score the test set, with a template of the store or one learnt from ``train/good``; return the public figures."""
    return evaluate_job(job, registry, progress)[0]


def evaluate_job(job: EvaluationJob, registry: Registry, progress: Progress) -> tuple[dict[str, Any], Evaluation]:
    """Return the public figures and what they were measured on: every test image's score and map."""
    detector = registry.detector(job.detector)
    check_device(job.options.device)
    dataset = read_dataset(job.dataset)
    if not dataset.test:
        raise ConfigError(f"{dataset.root}: expected test images in test/good and test/<defect>, found none")
    for target in (job.scores, job.maps and job.maps / "map"):
        if target:
            make_room(target)
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
    figures = {
        "detector": detector.name,
        **overall,
        "per_class": {label: measures.as_json() for label, measures in evaluation.per_class.items()},
        "n_references": content.valid,
        "n_test": len(evaluation.scored),
        "calibrate_s": calibrate_s,
        "latency_ms_p50": round(evaluation.latency_ms(50), 3),
        "latency_ms_p99": round(evaluation.latency_ms(99), 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "template_mb": round(sum(array.nbytes for array in content.tensors.values()) / 1e6, 3),
        "template": template,
        "settings": dict(content.settings),
        "warnings": list(dataset.warnings),
    }
    return figures, evaluation


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
