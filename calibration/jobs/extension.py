"""The job behind `edgead extend`: from a folder of new good parts to a longer template and a summary."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.dataset import references_from
from calibration.extend import extend, save
from calibration.extension import Extension, ExtensionOptions
from calibration.held_out import Progress, shortfalls
from calibration.jobs.checks import check_device, check_log_entry, check_product
from calibration.references import References
from runtime.detector import Detector
from runtime.errors import ConfigError, TemplateError
from runtime.registry import Registry
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity
from runtime.store.template import Template


@dataclass(frozen=True, kw_only=True)
class ExtensionJob:
    """What `edgead extend` was asked.

    ``template``: id or prefix of the template to extend; None: the active one of ``product`` and ``detector``.
    ``references``: folder of the former references, to set the thresholds anew; None: they are kept.
    """

    frames: Path
    product: str
    store: Path
    detector: str = "hetmm"
    template: str | None = None
    references: Path | None = None
    activate: bool = False
    who: str = "unknown"
    why: str = ""
    options: ExtensionOptions = field(default_factory=ExtensionOptions)


def run_extension(job: ExtensionJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Extend a template, store the new one, activate it if asked; return the summary `edgead extend --json` prints.

    Where no new frame had anything to teach nothing is stored or activated, and ``template`` is the parent. A template
    that no longer finds planted damage is stored but not activated, whatever ``job.activate`` says.
    """
    detector = registry.detector(job.detector)
    check_device(job.options.device)
    check_product(job.product)
    check_log_entry(job.who, job.why)
    if job.references and job.options.held_out < 1:
        raise ConfigError("--held-out: expected at least one frame to set thresholds from --references, found 0")
    store = Store(job.store)
    parent = _parent(store, job, detector)
    frames = References(references_from(job.frames))
    former = References(references_from(job.references)) if job.references else None
    started = time.monotonic()
    extension = extend(detector, parent, frames, job.options, progress, former=former)
    seconds = time.monotonic() - started
    template = _stored(extension, store, job, detector, registry)
    if job.activate and extension.made and not extension.hides_damage:  # a bad part would pass: the operator decides
        store.activate(template.digest, who=job.who, why=_why(job, extension))
    return {
        "template": template.digest,
        "parent": parent.digest,
        "product": job.product,
        "detector": detector.name,
        "active": _is_active(store, template),
        **_frames(extension),
        **_figures(template),
        "extend_s": round(seconds, 3),
        "warnings": [*extension.warnings, *shortfalls(template.manifest.thresholds)],
    }


def _parent(store: Store, job: ExtensionJob, detector: Detector) -> Template:
    if job.template is None:
        return store.active(job.product, detector.name)
    template = store.template(job.template)
    found = template.manifest.product, template.manifest.detector.name
    if found != (job.product, detector.name):
        raise ConfigError(
            f"template {template.digest[:12]}: expected one of product {job.product} and detector {detector.name}, "
            f"found one of {found[0]} and {found[1]}: add --product {found[0]} --detector {found[1]}"
        )
    return template


def _stored(extension: Extension, store: Store, job: ExtensionJob, detector: Detector, registry: Registry) -> Template:
    """Store the new template; where there is none, return the parent."""
    if extension.made is None:
        return extension.parent
    distribution = registry.detectors[detector.name].distribution
    identity = DetectorIdentity(name=detector.name, version=detector.version, distribution=distribution)
    return save(extension, store, detector=identity, who=job.who, why=_why(job, extension))


def _why(job: ExtensionJob, extension: Extension) -> str:
    inserted = sum(frame.inserted for frame in extension.frames)
    return job.why or f"extended {extension.parent.digest[:12]} by {inserted} frames"


def _is_active(store: Store, template: Template) -> bool:
    try:
        return store.active(template.manifest.product, template.manifest.detector.name).digest == template.digest
    except TemplateError:  # none is active, or the one that is is damaged: either way it is not this one
        return False


def _frames(extension: Extension) -> dict[str, Any]:
    return {
        "inserted": [frame.name for frame in extension.frames if frame.inserted],
        "skipped": {reason: list(names) for reason, names in extension.skipped.items()},
        "scores": [{"frame": frame.name, "before": frame.before, "after": frame.after} for frame in extension.frames],
    }


def _figures(template: Template) -> dict[str, Any]:
    manifest = template.manifest
    return {
        "n_references": len(manifest.references),
        "capacity": manifest.bank.capacity,
        "thresholds": manifest.thresholds.model_dump(mode="json"),
        "bank_mb": round(manifest.bank.size / 1e6, 2),
        "pool_mb": round(manifest.pool.size / 1e6, 2) if manifest.pool else 0.0,
    }
