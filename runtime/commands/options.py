"""What many commands share: the types of their options, and what they ask of the front door."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runtime.registry import Registry
    from runtime.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print JSON; the last line of stdout is one object or list.")]
StationFile = Annotated[Path, typer.Argument(help="Station file (YAML).", show_default=True)]
StoreDir = Annotated[Path, typer.Option("--store", help="Template store folder.", envvar="EDGEAD_STORE")]
DetectorName = Annotated[str, typer.Option("--detector", "-d", help="Detector; see `edgead plugins`.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Detector setting KEY=VALUE (YAML value); repeatable.")
]
Preset = Annotated[
    str | None, typer.Option("--preset", help="Detector preset: a YAML file, or a ready-made name such as hetmm-d0.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 = one per core.")]
Who = Annotated[str, typer.Option(help="Who did it, for the ref log; default: your login.", envvar="EDGEAD_WHO")]
Why = Annotated[str, typer.Option(help="Why, for the ref log.")]
TemplateId = Annotated[str, typer.Argument(help="Template id, or its first digits.")]

StationOption = Annotated[Path | None, typer.Option("--station", help="Station file to take the address from.")]

STATION = Path("station.yaml")
STORE = Path("store")


def plugins_of(context: typer.Context) -> Registry:
    """Load the plugins: those edgead ships, which the front door names in the context, and the installed ones."""
    from runtime.registry import load_plugins

    return load_plugins(context.find_root().obj)


def login() -> str:
    """Return the user the ref log names when nobody says otherwise."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name: KeyError until Python 3.12, OSError since
        return f"uid {os.getuid()}"


def address(station: Path | None, connect: str, key: str) -> str:
    """Return the address to connect to: ``key`` of the station file where one is given, else ``connect``."""
    from runtime.station.address import reachable
    from runtime.station.config import load_station

    return reachable(getattr(load_station(station), key) if station else connect)


def open_store(folder: Path) -> Store:
    """Open the template store in ``folder``."""
    from runtime.store import Store

    return Store(folder)
