"""Runs a published evaluation protocol over a benchmark data set: `edgead evaluate DIR --protocol NAME`.

Category by category: learn from ``train/good`` with the protocol's settings, score the test images, post-process each
map by the protocol's three rules, measure. Published figures stand beside the measured ones, with every reason known
why the two may not be compared. PRO is this project's standard one (8-connected regions, to 30 % false positives).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calibration.calibrate import CalibrationOptions, Progress, learn
from calibration.dataset import Dataset
from calibration.evaluate import Scored, evaluate, measure
from calibration.jobs.checks import check_device, chosen_settings
from calibration.layouts import BenchmarkOnDisk, read_benchmark
from calibration.metrics import auroc, pro
from calibration.references import References
from runtime.detector import Detector
from runtime.engines.engine import Engine
from runtime.errors import ConfigError
from runtime.evaluation_protocol import CategoryPlan, PublishedFigures
from runtime.registry import Registry

#: The figures of a category and of the mean, in the order they are shown.
MEASURES = ("image_auroc", "pixel_auroc", "pixel_ap", "pro")
#: Columns of ``table_rows``.
COLUMNS = ("category", "n_test", *MEASURES)


@dataclass(frozen=True, kw_only=True)
class ProtocolJob:
    """What `edgead evaluate --protocol` was asked; ``settings``: KEY=VALUE that go over the protocol's."""

    protocol: str
    dataset: Path
    settings: list[str] = field(default_factory=list)
    options: CalibrationOptions = field(default_factory=CalibrationOptions)


def run_protocol(job: ProtocolJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Evaluate every category of the benchmark in ``job.dataset`` that is there; return the public figures.

    JSON values; figures are 0..1, None where they are not defined. Whatever can be known to be wrong with folders and
    settings is refused (ConfigError) before the first category; a missing weight file (WeightsError) at its start.
    """
    protocol = registry.protocol(job.protocol)
    detector = registry.detector(protocol.detector)
    check_device(job.options.device)
    found = read_benchmark(job.dataset)
    name, title = found.benchmark.name, found.benchmark.title
    if name not in protocol.published:
        covered = ", ".join(sorted(protocol.published))
        raise ConfigError(f"protocol {protocol.name}: expected a data set of {covered}, found {title} in {job.dataset}")
    plans = {category: protocol.plan(name, category) for category in found.categories}
    averaged = found.benchmark.averaged_classes
    prepared = [
        _Category(category, dataset, plans[category], detector, job.settings, averaged_classes=averaged)
        for category, dataset in found.categories.items()
    ]
    changed = {key: value for each in prepared for key, value in each.changed.items()}
    categories = {each.name: _evaluated(each, job.options, progress) for each in prepared}
    for each, figures in protocol.published[name].categories.items():
        if each in categories:
            categories[each]["published"] = _published(figures)
    return {
        "protocol": protocol.name,
        "source": protocol.source,
        "detector": detector.name,
        "version": detector.version,
        "dataset": name,
        "title": title,
        "categories": categories,
        "mean": {figure: _mean([each[figure] for each in categories.values()]) for figure in MEASURES},
        "published": _published(protocol.published[name]),
        "missing": list(found.missing),
        "warnings": [
            *_incomplete(found, categories),
            *(f"--set {key}={json.dumps(value)} is not the protocol's setting" for key, value in changed.items()),
            *_ours(plans, title),
            *protocol.published[name].remarks,
            *protocol.remarks,
            *found.benchmark.remarks,
            *found.warnings,
        ],
    }


def table_rows(figures: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return what ``run_protocol`` gave as rows under ``COLUMNS``: the categories, the mean, the published figure."""
    categories: Mapping[str, Mapping[str, Any]] = figures["categories"]
    return [
        *((category, *(each[column] for column in COLUMNS[1:])) for category, each in categories.items()),
        ("mean", None, *(figures["mean"][figure] for figure in MEASURES)),
        ("published", None, *(figures["published"].get(figure) for figure in MEASURES)),
    ]


class _Category:
    """One category ready to be evaluated: nothing about its settings can be wrong any more.

    ``changed``: the settings that differ from the protocol's, with their values.
    """

    def __init__(
        self,
        name: str,
        dataset: Dataset,
        plan: CategoryPlan,
        detector: Detector,
        overrides: Sequence[str],
        *,
        averaged_classes: tuple[str, ...],
    ) -> None:
        self.name, self.dataset, self.plan, self.detector = name, dataset, plan, detector
        self.averaged_classes = averaged_classes
        # The protocol's settings in the form the user's have: one way in, one kind of error. JSON is YAML.
        own = [f"{key}={json.dumps(value)}" for key, value in plan.settings.items()]
        self.settings = chosen_settings(detector, plan.preset, [*own, *overrides])
        planned = chosen_settings(detector, plan.preset, own).model_dump(mode="json")
        self.changed = {
            key: value for key, value in self.settings.model_dump(mode="json").items() if value != planned[key]
        }

    @property
    def settings_are(self) -> str:
        """Whose settings these are, in one word for the output."""
        if self.changed:
            return "changed"
        return "published" if self.plan.is_published else "ours"


def _evaluated(category: _Category, options: CalibrationOptions, progress: Progress) -> dict[str, Any]:
    def named(done: int, total: int, what: str) -> None:
        progress(done, total, f"{category.name}: {what}")

    plan, dataset, detector = category.plan, category.dataset, category.detector
    started = time.monotonic()
    content = learn(detector, References(dataset.references), category.settings, options, named)
    calibrate_s = time.monotonic() - started
    engine = Engine(detector, content, device=options.device, threads=options.threads)
    evaluation = evaluate(engine, dataset, named)
    plain = evaluation.overall.as_json()
    return {
        **_figures(evaluation.scored, plan, category.averaged_classes),
        "n_references": len(dataset.references),
        "n_test": len(evaluation.scored),
        "calibrate_s": round(calibrate_s, 3),
        "latency_ms_p50": round(evaluation.latency_ms(50), 3),
        "latency_ms_p99": round(evaluation.latency_ms(99), 3),
        "post_processing": dict(plan.post_processing),
        # The detector's own score and map: what the post-processing adds is the difference.
        "without_post_processing": {figure: plain[figure] for figure in MEASURES}
        | {"image_auroc": _image_auroc(evaluation.scored, category.averaged_classes)},
        "settings_are": category.settings_are,
        "settings": dict(content.settings),
    }


def _figures(scored: Sequence[Scored], plan: CategoryPlan, averaged_classes: Sequence[str]) -> dict[str, Any]:
    """Measure the maps as the plan post-processes them; images of unknown truth are left out of the pixel measures."""
    processed = [
        replace(each, score=plan.image_score(each.anomaly_map), anomaly_map=plan.pixel_map(each.anomaly_map))
        for each in scored
    ]
    known = [each for each in scored if each.mask is not None]
    figures = measure(processed).as_json()
    if figures["pro"] is not None:
        figures["pro"] = pro([plan.pro_map(each.anomaly_map) for each in known], [each.mask for each in known])  # type: ignore[misc]
    classes = sorted({each.sample.label for each in scored if each.sample.is_defect})
    return {
        **{figure: figures[figure] for figure in MEASURES},
        "image_auroc": _image_auroc(processed, averaged_classes),
        "image_auroc_per_class": {label: _image_auroc(processed, [label]) for label in classes},
    }


def _image_auroc(scored: Sequence[Scored], classes: Sequence[str]) -> float | None:
    """Return the mean over ``classes`` of the AUROC of that class against all good images; no classes: all at once."""
    if not classes:
        return auroc([each.sample.is_defect for each in scored], [each.score for each in scored])
    of_class = [
        _image_auroc([each for each in scored if each.sample.label == label or not each.sample.is_defect], [])
        for label in classes
    ]
    return None if None in of_class else _mean(of_class)


def _published(figures: PublishedFigures) -> dict[str, float]:
    """Return the figures that are reported, by name."""
    named = {figure: getattr(figures, figure) for figure in MEASURES}
    return {figure: value for figure, value in named.items() if value is not None}


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _incomplete(found: BenchmarkOnDisk, categories: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tell of which categories the mean is the mean."""
    total, missing = len(found.benchmark.categories), found.missing
    warnings = []
    if missing:
        warnings.append(
            f"{len(missing)} of {total} categories are missing ({', '.join(missing)}): the mean is over the other "
            f"{total - len(missing)}, the published figure over all"
        )
    for figure in MEASURES:
        without = [category for category, each in categories.items() if each[figure] is None]
        if without:
            warnings.append(f"{figure} is not defined for {', '.join(without)}: not part of the mean")
    return warnings


def _ours(plans: Mapping[str, CategoryPlan], title: str) -> list[str]:
    ours = [category for category, plan in plans.items() if not plan.is_published]
    return [f"settings for {title}, {', '.join(ours)}: ours, not the paper's, which are not published"] if ours else []
