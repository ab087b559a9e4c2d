"""The test images every detector is shown with, and its map over each of them as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.dataset import Dataset, Sample, read_mask
from calibration.evaluate import Evaluation, Scored
from calibration.pictures import jpeg, shrink
from runtime.images import overlay, read_image

#: Images shown: one good part and as many defects as give two rows of classes on most sets.
COUNT = 8
#: Longest side of a picture, px.
PICTURE_PX = 200


def choose_examples(dataset: Dataset, count: int = COUNT) -> list[Sample]:
    """Return one good test image and defects, class after class in turn, the middle one of each class first."""
    classes: dict[str, list[Sample]] = {}
    for sample in dataset.test:
        classes.setdefault(sample.label, []).append(sample)
    good = classes.pop("good", [])
    chosen = good[len(good) // 2 :][:1]
    turns = max(map(len, classes.values()), default=0)
    for turn in range(turns):
        chosen += [own[(len(own) // 2 + turn) % len(own)] for own in classes.values() if turn < len(own)]
    return chosen[:count]


def write_examples(evaluation: Evaluation, names: Sequence[str], folder: Path, stem: str) -> list[dict[str, Any]]:
    """Draw the maps of the images ``names`` into ``folder`` as ``<stem>-<number>.jpg``; return a record for each.

    Colours begin at the median of the maps of good images, or of all where there are none, and end at the largest value
    of the maps drawn: every detector has a scale of its own. ``lower``: share of good images that score lower.
    """
    by_name = {each.sample.name: each for each in evaluation.scored}
    drawn = [by_name[name] for name in names]
    good = [each for each in evaluation.scored if not each.sample.is_defect]
    floor = float(np.median([np.median(each.anomaly_map) for each in good or evaluation.scored]))
    top = max(float(each.anomaly_map.max()) for each in drawn) - floor if drawn else 1.0
    records = []
    for number, each in enumerate(drawn):
        picture = f"{stem}-{number}.jpg"
        small = shrink(read_image(each.sample.path), PICTURE_PX)
        over = overlay(small, np.maximum(each.anomaly_map - floor, 0), np.inf, top if top > 0 else 1.0)
        (folder / picture).write_bytes(jpeg(over))
        records.append({
            "image": each.sample.name, "score": each.score, "lower": _lower(each, good), "picture": picture,
        })  # fmt: skip
    return records


def draw_truth(sample: Sample) -> bytes:
    """Return an image with the outline of its mask, where it has one, as JPEG."""
    image = read_image(sample.path)
    if sample.mask_path is None:
        return jpeg(shrink(image, PICTURE_PX))
    mask = read_mask(sample, (image.shape[0], image.shape[1])).astype(np.float32)
    # A scale nothing reaches: no colours, only the contour.
    return jpeg(overlay(shrink(image, PICTURE_PX), mask, 0.5, 1e9))


def _lower(each: Scored, good: Sequence[Scored]) -> float | None:
    return sum(other.score < each.score for other in good) / len(good) if good else None
