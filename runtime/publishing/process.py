"""The process of one publisher: loads its plugin, checks its options, feeds it until it is told to stop.

Started by ``runtime.publishing.supervisor`` with a file that says what to run and a socket (``runtime.worker.link``):
over it come new checksums of an applied station file, over it go figures; when the other end closes, because the host
stopped or died, the publisher ends too: an orphan would hold its port. `edgead publish` calls ``publish`` directly.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from runtime.errors import ConfigError, EdgeadError
from runtime.publisher import Publisher, PublisherContext
from runtime.publishing.checksum import config_crc32
from runtime.publishing.feed import StationFeed
from runtime.publishing.line import StationLine
from runtime.registry import Registry, load_plugins
from runtime.station.address import reachable
from runtime.station.config import Station
from runtime.worker.link import Link, one_line

log = logging.getLogger("edgead.publisher")

#: Key of a publisher's section that says which one it is; without it the section's own name does.
KIND = "publisher"
#: What its subscription is called before its own name.
SUBSCRIBER_PREFIX = "publisher-"
_STATE_FOLDER = "publishers"


def check_publisher(registry: Registry, station: Station, name: str) -> tuple[Publisher, BaseModel]:
    """Return the publisher ``name`` of a station file and its checked options. Opens nothing.

    Raises ``ConfigError``: no such section, no such publisher, options that are wrong, or a package that is missing,
    with the command that installs it.
    """
    if name not in station.publishers:
        known = ", ".join(station.publishers) or "none"
        raise ConfigError(f"expected a section `publishers: {name}:` in the station file, found {known}")
    section = dict(station.publishers[name])
    publisher = registry.publisher(str(section.pop(KIND, name)))
    try:
        options = publisher.options_model.model_validate(section)
    except ValidationError as error:
        faults = [
            f"publishers.{name}.{'.'.join(map(str, fault['loc']))}: {fault['msg']}, found {str(fault['input'])[:60]!r}"
            for fault in error.errors()
        ]
        raise ConfigError("; ".join(faults)) from error
    missing = [module for module in publisher.modules if not _is_installed(module)]
    if missing:
        raise ConfigError(
            f"publisher {name!r} needs {', '.join(missing)}, not installed here: pip install '{publisher.requirement}'"
        )
    return publisher, options


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def publish(
    station: Station,
    base: Path,
    registry: Registry,
    name: str,
    *,
    stopping: threading.Event,
    report: Callable[[Mapping[str, Any]], None],
    checksum: Callable[[], int] | None = None,
) -> None:
    """Run the publisher ``name`` until ``stopping``. ``base``: folder of the station file.

    ``checksum``: returns the CRC-32 of the station file that is applied now; None: it is that of ``station``.

    Raises whatever ``check_publisher`` and the publisher raise, ``ConfigError`` for a station without deliveries.
    """
    publisher, options = check_publisher(registry, station, name)
    if station.deliveries is None or station.ledger is None:
        raise ConfigError("expected `deliveries` in the station file, found null: publishers are fed from there")
    folder = station.ledger.path / _STATE_FOLDER / name
    memory = folder / "delivered"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # a server's private key may lie there
    with (
        StationFeed(reachable(station.deliveries), SUBSCRIBER_PREFIX + name, memory) as feed,
        StationLine(reachable(station.frames), reachable(station.status), folder / "triggers") as line,
    ):
        recipes = {camera: tuple(getattr(each, "recipes", {})) for camera, each in station.cameras.items()}
        context = PublisherContext(
            name=name, station=station.station, cameras=recipes, folder=folder, base=base, line=line,
            stopping=stopping, report=report, checksum=checksum or partial(config_crc32, station),
        )  # fmt: skip
        publisher.run(feed, options, context)


@contextlib.contextmanager
def ended_by_signals(stopping: threading.Event) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C set ``stopping``."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str]) -> int:
    """Serve the supervisor at the other end of an inherited socket; return the exit code.

    ``arguments``: the descriptors of that socket and of the file that says what to run.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    link = Link.adopt(int(arguments[0]))
    with open(int(arguments[1]), "rb") as file:  # noqa: PTH123 - a descriptor
        setup = json.load(file)
    stopping = threading.Event()
    with ended_by_signals(stopping), contextlib.suppress(EOFError):  # the host is gone: nobody wants to know
        # A terminal's Ctrl-C reaches host and publishers alike; what the host still publishes must be handed over.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_heed_host, args=(link, setup, stopping), name="host", daemon=True).start()
        try:
            station = Station.model_validate_json(setup["station"])
            registry = load_plugins(setup["builtins"])
            publish(
                station, Path(setup["base"]), registry, setup["name"],
                stopping=stopping, report=lambda figures: _report(link, figures),
                checksum=lambda: int(setup["config_crc32"]),
            )  # fmt: skip
        except EdgeadError as error:
            link.send({"op": "ended", "why": str(error)[:2000]})
            return error.exit_code
        except Exception as error:  # a stranger's code: its failure is a record, and a restart
            log.exception("publisher %s", setup.get("name"))
            link.send({"op": "ended", "why": one_line(error)})
            return 1
    return 0


def _report(link: Link, figures: Mapping[str, Any]) -> None:
    with contextlib.suppress(EOFError):
        link.send({"op": "figures", "figures": dict(figures)})


def _heed_host(link: Link, setup: dict[str, Any], stopping: threading.Event) -> None:
    """Note what the host says of its station file, until its end."""
    try:
        with contextlib.suppress(EOFError, OSError):
            while True:
                said = link.receive() or {}
                if said.get("op") == "checksum":
                    setup["config_crc32"] = said["config_crc32"]
    finally:  # whatever it was: who no longer hears the host would outlive it
        stopping.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
