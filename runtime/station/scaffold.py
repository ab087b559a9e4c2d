"""Makes the folder of a new station: `edgead init`."""

from __future__ import annotations

import importlib.resources
import re
import shlex
from pathlib import Path

from runtime.errors import ConfigError
from runtime.store import Store

#: Written as they lie in the ``configs`` package.
_FILES = ("station.yaml", "station.schema.json")
_PRODUCT = re.compile(r"^ +product: (\S+)", re.MULTILINE)


def make_station(folder: Path) -> str:
    """Write a commented station file with its schema, an empty store and a folder for good pictures.

    Returns what to do next. ``ConfigError`` if the folder holds a station already: nothing is overwritten.
    """
    station = folder / "station.yaml"
    if station.exists():
        raise ConfigError(f"expected a folder without a station, found {station}: edit it, or name another folder")
    configs = importlib.resources.files("configs")
    try:
        (folder / "good").mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (folder / name).write_text(configs.joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error}") from error
    Store.create(folder / "store")
    product = _PRODUCT.search(station.read_text(encoding="utf-8"))
    if product is None:
        raise ConfigError(f"{station}: expected a camera with a product, found none: edgead was not installed whole")
    good, store = shlex.quote(str(folder / "good")), shlex.quote(str(folder / "store"))
    return (
        f"made {station}, {folder / 'store'} and {folder / 'good'}\n"
        f"next: put pictures of good parts into {folder / 'good'}, then\n"
        f"  edgead calibrate {good} --product {product[1]} --store {store} --activate\n"
        f"  edgead run {shlex.quote(str(station))}"
    )
