"""Scores a labelled test set and says how well good and bad are told apart, in the field's own measures.

Definitions: image AUROC over test images; pixel AUROC, AP and PRO (8-connected regions, integrated to 30 % false
positives) over the pixels of the test maps, with masks brought to the map's size (``calibration.masks``). Defective
images without a mask, or with an empty one, say nothing about pixels and are left out of the pixel measures. Scores are
raw: nothing is rescaled by the test set.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.dataset import Dataset, Sample, read_mask
from calibration.masks import resize_mask
from calibration.metrics import PixelMetrics, auroc, pixel_metrics
from runtime.engines.engine import Engine
from runtime.errors import ConfigError
from runtime.images import read_image

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Scored:
    """One test image: score, map float32 [h, w], its truth at map size (None: unknown), milliseconds in the engine."""

    sample: Sample
    score: float
    anomaly_map: np.ndarray
    mask: np.ndarray | None
    latency_ms: float


@dataclass(frozen=True)
class Measures:
    """Image AUROC and pixel measures of some images; None where they are not defined."""

    n: int
    image_auroc: float | None
    pixels: PixelMetrics | None

    def as_json(self) -> dict[str, Any]:
        """Return the figures under their public names."""
        pixels = self.pixels
        return {
            "n": self.n,
            "image_auroc": self.image_auroc,
            "pixel_auroc": pixels.auroc if pixels else None,
            "pixel_ap": pixels.ap if pixels else None,
            "pro": pixels.pro if pixels else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """A scored test set with its measures, over all images and per defect class (each against all good images)."""

    scored: tuple[Scored, ...]
    overall: Measures
    per_class: dict[str, Measures]

    def latency_ms(self, percentile: float) -> float:
        """Return a percentile of the time one frame takes in the engine (resize to score, decoding not included)."""
        return float(np.percentile([each.latency_ms for each in self.scored], percentile))


def evaluate(engine: Engine, dataset: Dataset, progress: Progress) -> Evaluation:
    """Score every test image of ``dataset``; ``ConfigError`` if there is nothing to score."""
    if not dataset.test:
        raise ConfigError(f"{dataset.root}: expected test images in test/good and test/<defect>, found none")
    engine.infer(read_image(dataset.test[0].path))  # warm up: the first call pays for lazy initialisation
    scored = []
    for done, sample in enumerate(dataset.test):
        image = read_image(sample.path)
        started = time.perf_counter()
        result = engine.infer(image)
        latency_ms = (time.perf_counter() - started) * 1e3
        mask = _truth(sample, image.shape[:2], result.anomaly_map.shape)
        scored.append(Scored(sample, result.score, result.anomaly_map, mask, latency_ms))
        progress(done + 1, len(dataset.test), "scoring test images")
    progress(0, 1, "computing measures")
    evaluation = Evaluation(tuple(scored), measure(scored), _per_class(scored))
    progress(1, 1, "computing measures")
    return evaluation


def measure(scored: Sequence[Scored]) -> Measures:
    """Return the measures over ``scored``."""
    labels = [each.sample.is_defect for each in scored]
    known = [each for each in scored if each.mask is not None]
    with_defects = any(each.sample.is_defect for each in known)
    pixels = pixel_metrics([k.anomaly_map for k in known], [k.mask for k in known]) if with_defects else None  # type: ignore[misc]
    return Measures(len(scored), auroc(labels, [each.score for each in scored]), pixels)


def _per_class(scored: Sequence[Scored]) -> dict[str, Measures]:
    classes = sorted({each.sample.label for each in scored if each.sample.is_defect})
    return {
        label: measure([each for each in scored if each.sample.label == label or not each.sample.is_defect])
        for label in classes
    }


def _truth(sample: Sample, shape: tuple[int, ...], map_shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the bool mask at map size; None where the truth is unknown."""
    if not sample.is_defect:
        return np.zeros(map_shape, bool)
    if sample.mask_path is None:
        return None
    mask = read_mask(sample, (shape[0], shape[1]))
    return resize_mask(mask, (map_shape[0], map_shape[1])) if mask.any() else None


def write_scores(evaluation: Evaluation, file: Path) -> None:
    """Write one line per test image: path relative to the dataset, label, score (all digits)."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label", "score"])
        rows.writerows([each.sample.name, each.sample.label, repr(each.score)] for each in evaluation.scored)


def write_maps(evaluation: Evaluation, folder: Path) -> None:
    """Write every raw map as float32 .npy under the image's own path, suffix replaced."""
    for each in evaluation.scored:
        target = (folder / each.sample.name).with_suffix(".npy")
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, each.anomaly_map.astype(np.float32), allow_pickle=False)
