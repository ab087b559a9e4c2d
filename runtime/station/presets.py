"""Detector presets: YAML files that name a detector and its settings, ready-made ones in the ``configs`` package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from runtime.errors import ConfigError
from runtime.station.config import Slug
from runtime.station.yamlfile import check_yaml, load_yaml

#: The room the ready-made presets lie in. It holds data only, so nothing of it is imported by name.
PRESET_PACKAGE = "configs"
PRESET_SCHEMA: Literal["edgead.preset/1"] = "edgead.preset/1"
#: The line that tells a preset from a station file in the same folder.
_MARK = f"schema: {PRESET_SCHEMA}"


class Preset(BaseModel):
    """A detector with settings, as ``edgead calibrate`` takes them. The detector itself checks the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    schema_: Annotated[Literal["edgead.preset/1"], Field(alias="schema")]
    """Format of this file."""
    detector: Slug
    """Detector the settings are for."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of that detector; what is left out keeps the detector's default."""


def load_preset(path_or_name: str | Path) -> Preset:
    """Return the preset in a file, or the ready-made one of that name (``hetmm``, as listed by ``preset_names``).

    Whatever has a folder or a ``.yaml`` in it is a path. Raises ``ConfigError``: an unknown name lists the known ones,
    a file that is wrong has each fault with its line.
    """
    path = Path(path_or_name)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        return load_yaml(path, Preset)
    name = str(path_or_name)
    if name not in preset_names():
        raise ConfigError(
            f"expected a preset of {', '.join(preset_names())}, or the path of a .yaml file, found {name!r}"
        )
    return check_yaml(dict(_files())[name].read_text(encoding="utf-8"), Preset, f"preset {name}")


def preset_names() -> list[str]:
    """Return the names of the ready-made presets, sorted."""
    return sorted(name for name, file in _files() if _MARK in file.read_text(encoding="utf-8").splitlines())


def _files() -> Iterator[tuple[str, Traversable]]:
    """Yield (name, file): ``hetmm.yaml`` is hetmm, and in a folder ``hetmm-mvtec/bottle.yaml`` hetmm-mvtec-bottle."""
    for entry in resources.files(PRESET_PACKAGE).iterdir():
        group = f"{entry.name}-" if entry.is_dir() else ""
        for file in entry.iterdir() if entry.is_dir() else [entry]:
            if file.name.endswith(".yaml"):
                yield group + file.name.removesuffix(".yaml"), file
