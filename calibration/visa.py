"""VisA as it is published (Zou et al., ECCV 2022): the split is a table, normal and anomalous images are not parted.

``split_csv/1cls.csv`` has the columns object, split, label, image, mask; paths are relative to the root::

    candle,train,normal,candle/Data/Images/Normal/0836.JPG,
    candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png

A mask's values are class numbers, so every value above 0 is defect: ``calibration.dataset.read_mask`` takes it so.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from calibration.dataset import GOOD, Dataset, Sample
from runtime.errors import ConfigError
from runtime.images import natural_key

#: The table of the one-class split, the one figures are reported on.
SPLIT = "split_csv/1cls.csv"
DEFECT = "anomaly"
_LABELS = {"normal": GOOD, "anomaly": DEFECT}
_COLUMNS = ("object", "split", "label", "image", "mask")


def read_visa(root: Path, categories: Sequence[str]) -> dict[str, Dataset]:
    """List the images of ``categories`` by the one-class split, in natural order of their names; reads no pixels.

    Defects are labelled ``anomaly``. Raises ConfigError, naming the line, for a table that is not as above, a file that
    is missing, and an anomalous image among the references.
    """
    rows = _rows(root / SPLIT)
    return {category: _dataset(root, [row for row in rows if row["object"] == category]) for category in categories}


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = [{**row, "line": f"{table}:{reader.line_num}"} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"expected the split of VisA in {table}, but it cannot be read: {error}") from error
    if tuple(reader.fieldnames or ()) != _COLUMNS:
        raise ConfigError(f"{table}:1: expected the columns {', '.join(_COLUMNS)}, found {reader.fieldnames}")
    for row in rows:
        if None in row or None in row.values() or row["label"] not in _LABELS or row["split"] not in {"train", "test"}:
            raise ConfigError(
                f"{row['line']}: expected five fields with a split of train, test and a label of {', '.join(_LABELS)}, "
                f"found split {row['split']!r}, label {row['label']!r}"
            )
    return rows


def _dataset(root: Path, rows: Sequence[dict[str, str]]) -> Dataset:
    samples = sorted(((row["split"], _sample(root, row)) for row in rows), key=lambda pair: natural_key(pair[1].name))
    return Dataset(
        root=root,
        references=tuple(sample for split, sample in samples if split == "train"),
        test=tuple(sample for split, sample in samples if split == "test"),
    )


def _sample(root: Path, row: dict[str, str]) -> Sample:
    image, mask = root / row["image"], root / row["mask"] if row["mask"] else None
    for path in filter(None, (image, mask)):
        if not path.is_file():
            raise ConfigError(f"{row['line']}: expected a file at {path}, found none: unpack the whole data set")
    label = _LABELS[row["label"]]
    if row["split"] == "train" and label != GOOD:
        raise ConfigError(f"{row['line']}: expected only normal images in train, found {row['image']}")
    return Sample(path=image, name=row["image"], label=label, mask_path=mask)
