"""Makes the folder of a new station: `edgead init`."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from runtime.errors import ConfigError
from runtime.store import Store


def make_station(folder: Path) -> str:
    """Write a commented station file, an empty store and a folder for good pictures; return what to do next.

    ``ConfigError`` if the folder holds a station already: nothing is overwritten.
    """
    station = folder / "station.yaml"
    if station.exists():
        raise ConfigError(f"expected a folder without a station, found {station}: edit it, or name another folder")
    example = importlib.resources.files("configs").joinpath("station.yaml").read_text(encoding="utf-8")
    try:
        (folder / "good").mkdir(parents=True, exist_ok=True)
        station.write_text(example, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error}") from error
    Store.create(folder / "store")
    return (
        f"made {station}, {folder / 'store'} and {folder / 'good'}\n"
        f"next: put pictures of good parts into {folder / 'good'}, then\n"
        f"  edgead calibrate {folder / 'good'} --product part --store {folder / 'store'} --activate\n"
        f"  edgead run {station}"
    )
