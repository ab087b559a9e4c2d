"""What can be known to be wrong before the long part of a job, and is refused before it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from calibration.calibrate import resolve_settings
from runtime.detector import Detector
from runtime.errors import ConfigError
from runtime.station.presets import load_preset
from runtime.station.yamlfile import parse_value
from runtime.store.manifest import SLUG

#: Characters of who and why that a line of the ref log (``runtime.store.reflog.LogEntry``) takes.
_MOST_WHO, _MOST_WHY = 200, 2000


def check_target(false_reject: float) -> None:
    """Refuse a false-reject target that is no share."""
    if not 0 < false_reject < 1:
        raise ConfigError(f"--false-reject: expected a share between 0 and 1, found {false_reject}")


def check_device(name: str) -> None:
    """Refuse a device that is not there before a detector meets it."""
    import torch

    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"--device: expected cpu, cuda or cuda:N, found {name!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device: expected a CUDA device for {name!r}, found {torch.cuda.device_count()}: "
            "see `edgead doctor`, or use cpu"
        )


def check_product(name: str) -> None:
    """Refuse a product name that cannot become a path and a topic."""
    if re.fullmatch(SLUG, name) is None:
        raise ConfigError(f"--product: expected 1 to 64 of a-z 0-9 _ . -, found {name!r}")


def check_log_entry(who: str, why: str) -> None:
    """Refuse what the ref log could not take once the work is done."""
    for option, text, least, most in (("--who", who, 1, _MOST_WHO), ("--why", why, 0, _MOST_WHY)):
        if not least <= len(text) <= most:
            raise ConfigError(f"{option}: expected {least} to {most} characters, found {len(text)}: reword it")


def make_room(file: Path) -> Path:
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
