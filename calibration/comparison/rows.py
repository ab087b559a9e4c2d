"""One row of a comparison: a detector with its settings, and what was measured or why nothing was.

A row is kept in a file of its own as soon as it is done, under a key of all it depends on; the same row again is read,
not computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.dataset import Dataset
from calibration.jobs.checks import chosen_settings
from runtime.engines.target import digest_of, installed
from runtime.errors import ConfigError
from runtime.registry import Registry
from runtime.station.presets import load_preset

#: Figures in the order they are shown: key of the record, heading, unit, and which end is the better one.
COLUMNS = (
    ("image_auroc", "image AUROC", "", "high"),
    ("pixel_auroc", "pixel AUROC", "", "high"),
    ("pro", "PRO", "", "high"),
    ("pixel_ap", "AP", "", "high"),
    ("latency_ms_p50", "latency p50", "ms", "low"),
    ("peak_memory_mb", "peak memory", "MB", "low"),
    ("template_mb", "template", "MB", "low"),
    ("calibrate_s", "calibration", "s", "low"),
)


@dataclass(frozen=True)
class Row:
    """A detector, the preset it is set with (None: its defaults), and its name in the comparison."""

    name: str
    detector: str
    preset: str | None

    @property
    def label(self) -> str:
        """What it is called on the page: with its detector's name where its own does not begin with it."""
        return self.name if self.name.startswith(self.detector) else f"{self.detector}: {self.name}"

    def file(self, folder: Path) -> Path:
        """Return the file its record is kept in."""
        return folder / "rows" / f"{self.name}.json"


@dataclass(frozen=True)
class Done:
    """What became of a row: its figures and example maps, or ``error``, the reason why there are none.

    ``examples``: of each example image its score, how many good test images score lower, and the name of a picture.
    """

    row: Row
    figures: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]]
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.row.name, "label": self.row.label, "detector": self.row.detector, "preset": self.row.preset,
            "error": self.error,
            "figures": dict(self.figures), "examples": [dict(each) for each in self.examples],
        }  # fmt: skip


def choose_rows(registry: Registry, detectors: Sequence[str], presets: Sequence[str]) -> list[Row]:
    """Return a row for every detector, or of ``detectors`` only, with the presets that are for it, else its defaults.

    Several presets of one detector are several rows. Raises ``ConfigError`` for an unknown detector or preset, and for
    a preset of a detector that is not compared.
    """
    unknown = [name for name in detectors if name not in registry.detectors]
    if unknown:
        known = ", ".join(sorted(registry.detectors))
        raise ConfigError(f"--detectors: expected some of {known}, found {', '.join(unknown)}")
    wanted = list(dict.fromkeys(detectors)) or sorted(registry.detectors)
    of_detector: dict[str, list[str]] = {}
    for preset in presets:
        detector = load_preset(preset).detector
        if detector not in wanted:
            raise ConfigError(f"preset {preset}: expected one for {', '.join(wanted)}, found one for {detector}")
        of_detector.setdefault(detector, []).append(preset)
    rows = [
        Row(Path(preset).stem if preset else name, name, preset)
        for name in wanted
        for preset in of_detector.get(name, [None])
    ]
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1 or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ConfigError(f"expected presets of different names of letters, digits, _ . -, found {name!r}: rename")
    return rows


def key_of(row: Row, registry: Registry, dataset: Dataset, circumstances: Mapping[str, Any]) -> str:
    """Return the digest of all a row depends on; images and masks of the data set count by name and size.

    Raises ``ConfigError`` for settings the detector refuses, ``PluginError`` where it cannot be made.
    """
    detector = registry.detector(row.detector)
    settings = chosen_settings(detector, row.preset, [])
    files = [
        [sample.name, _sizes(sample.path), _sizes(sample.mask_path) if sample.mask_path else None]
        for sample in (*dataset.references, *dataset.test)
    ]
    return digest_of({
        "detector": row.detector, "version": detector.version, "settings": settings.model_dump(mode="json"),
        "distribution": registry.detectors[row.detector].distribution, "edgead": installed("edgead"),
        "files": files, **circumstances,
    })  # fmt: skip


def _sizes(path: Path) -> list[int]:
    """Return the bytes of a file, or of the files in a folder of masks."""
    return [file.stat().st_size for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def read_row(row: Row, folder: Path, key: str) -> Done | None:
    """Return a row that was done under ``key`` before, its pictures being there; else None."""
    try:
        record = json.loads(row.file(folder).read_text(encoding="utf-8"))
        done = Done(row, record["figures"], record["examples"], record["error"])
        pictures = [row.file(folder).parent / each["picture"] for each in done.examples]
        whole = record["key"] == key and all(picture.is_file() for picture in pictures)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return done if whole and not done.error else None


def write_row(done: Done, folder: Path, key: str) -> None:
    """Keep a row that is done; one that failed is not kept, and is tried again next time.

    Raises ``ConfigError`` when the folder cannot be written.
    """
    file = done.row.file(folder)
    draft = file.with_name(f"{file.name}.part")
    try:
        if done.error:
            file.unlink(missing_ok=True)
            return
        draft.write_text(json.dumps(done.as_json() | {"key": key}, indent=1), encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise ConfigError(f"cannot keep a row in {file.parent}: {error.strerror}; check its rights and room") from error


def failed(row: Row, error: Exception) -> Done:
    """Return the row of a detector that could not be evaluated."""
    return Done(row, {}, (), " ".join(str(error).split()))
