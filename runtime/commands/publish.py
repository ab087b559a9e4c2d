"""`edgead publish`: one publisher of a station, alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.options import STATION, plugins_of


def publish(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The publisher: a key under `publishers` in the station file.")],
    station: Annotated[Path, typer.Option("--station", help="Station file (YAML).")] = STATION,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run one publisher of a station by itself until Ctrl-C or SIGTERM: to try it out, or on a supervisor of your own.

    `edgead run` starts all of them; two processes under one name take the results from each other.
    """
    import logging
    import threading

    from runtime.publishing.process import ended_by_signals
    from runtime.publishing.process import publish as run
    from runtime.station.config import load_station

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    stopping = threading.Event()
    with ended_by_signals(stopping):
        run(
            load_station(station),
            station.resolve().parent,
            plugins_of(context),
            name,
            stopping=stopping,
            report=lambda figures: logging.getLogger("edgead.publisher").debug("%s", dict(figures)),
        )
