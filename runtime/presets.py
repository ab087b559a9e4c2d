"""Detector presets: YAML files that name a detector and its settings, ready-made ones in the ``configs`` package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from runtime.config import Slug
from runtime.errors import ConfigError
from runtime.yamlfile import check_yaml, load_yaml

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
    return check_yaml(_text(name), Preset, f"preset {name}")


def preset_names() -> list[str]:
    """Return the names of the ready-made presets, sorted."""
    files = (entry.name for entry in resources.files(PRESET_PACKAGE).iterdir())
    names = sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))
    return [name for name in names if _MARK in _text(name).splitlines()]


def _text(name: str) -> str:
    return (resources.files(PRESET_PACKAGE) / f"{name}.yaml").read_text(encoding="utf-8")
