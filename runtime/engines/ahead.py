"""Building what a station needs, before it needs it.

`edgead build` does; `edgead run` before it starts the host, `edgead apply` and `use` before they ask it to change.

Whether anything is missing is found out without torch: a station whose engines are there starts as fast as an eager
one.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import run
from typing import TYPE_CHECKING

from runtime.engines.approvals import approval_name, read_approval
from runtime.engines.settings import EngineSettings
from runtime.engines.shapes import shapes_of
from runtime.errors import ConfigError, EngineError
from runtime.lane.assignment import lanes_of
from runtime.registry import Registry, load_plugins
from runtime.station.config import Station, load_station
from runtime.store import Store

if TYPE_CHECKING:
    from runtime.detector import Detector
    from runtime.engines.build import Built, Progress
    from runtime.store.template import Template


def wanted(station: Station, registry: Registry, camera: str | None = None) -> Iterator[tuple[Detector, Template, str]]:
    """Yield every detector, active template and device that a worker of ``station`` (or of one camera) has, each once.

    Raises ``ConfigError`` for an unknown camera, ``TemplateError`` where no template is active.
    """
    if camera is not None and camera not in station.cameras:
        raise ConfigError(f"expected a camera of the station ({', '.join(station.cameras)}), found {camera!r}")
    store = Store(station.store)
    lanes = {
        (each.product, each.detector, each.device or station.worker.device)
        for name, _, each in lanes_of(station)
        if camera in {None, name}
    }
    for product, name, device in sorted(lanes):
        yield registry.detector(name), store.active(product, name), device


def settings_of(station: Station) -> EngineSettings:
    """Return what ``station`` says of engines; several frames at once only where cameras share a worker."""
    found = EngineSettings.of(station.worker)
    shares = any(camera.worker == "shared" for camera in station.cameras.values())
    return found if shares else replace(found, batch=1)


def build_station(
    station: Station,
    registry: Registry,
    progress: Progress,
    *,
    camera: str | None = None,
    wish: EngineSettings | None = None,
) -> list[Built]:
    """Build and approve every engine ``station`` needs; ``wish`` replaces what its file says about engines.

    Raises as ``runtime.engines.build.build``.
    """
    from runtime.engines.build import build

    chosen = wish or settings_of(station)
    cache = chosen.cache()
    return [
        record
        for detector, template, device in wanted(station, registry, camera)
        for record in build(
            detector, template, chosen.target(device, station.worker.threads), cache, progress, batch=chosen.batch
        )
    ]


def is_ready(station: Station, registry: Registry) -> bool:
    """Tell whether every engine the station asks for is approved and whole; an eager station always is."""
    wish = settings_of(station)
    if not wish.is_compiled:
        return True
    cache = wish.cache()
    for detector, template, device in wanted(station, registry):
        if device != "cpu":
            return False  # a GPU's name is torch's to tell: the process that builds looks itself
        target = wish.target(device, station.worker.threads)
        for shape, batch in itertools.product(shapes_of(template.golden()), {1, wish.batch}):
            approved = read_approval(cache, approval_name(detector, template.digest, shape, target, batch))
            try:
                if approved is None or not (approved.get("refused") or cache.find(approved["key"])):
                    return False
            except EngineError:
                return False
    return True


def prepare(path: Path, builtins: tuple[str, ...], *, beside_host: bool = False) -> str:
    """Build what the station file ``path`` asks for and lacks, in a process of its own; return a sentence, "" if none.

    ``beside_host``: a station inspects on these cores meanwhile; building takes what it leaves. With ``backend: auto``
    a failure is only told: the workers answer eagerly. Otherwise, and after Ctrl-C, it raises ``EngineError``.
    """
    station = load_station(path)
    if not EngineSettings.of(station.worker).is_compiled or is_ready(station, load_plugins(builtins)):
        return ""
    # The host never imports torch, and this process becomes the host.
    program = "import sys\nfrom runtime.engines.ahead import main\nmain(sys.argv[1], tuple(sys.argv[2:]))"
    if beside_host:
        # A niced process still keeps its core for a slice; the idle class gives it back at once, to its children too.
        program = f"import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n{program}"
    left = "what runs stays as it is" if beside_host else "the station stays off"
    try:
        done = run([sys.executable, "-P", "-c", program, str(path), *builtins], check=False)
    except KeyboardInterrupt:  # as an error: what `edgead use` has selected is taken back
        raise EngineError(f"building engines was interrupted; {left}") from None
    if done.returncode == 0:
        return "engines are built"
    if station.worker.backend != "auto":
        raise EngineError(f"the engines the station file asks for could not be built (see above); {left}")
    return "engines could not be built (see above): workers inspect eagerly, which is slower"


def main(path: str, builtins: tuple[str, ...]) -> None:
    """Build for a station file, telling progress on stderr; exit code 9 with a sentence where that fails."""
    from runtime.errors import EdgeadError
    from runtime.process_defaults import set_process_defaults
    from runtime.terminal import progress_bars, say

    set_process_defaults()
    try:
        with progress_bars() as progress:
            records = build_station(load_station(Path(path)), load_plugins(builtins), progress)
    except EdgeadError as error:
        say(f"edgead: {error}")
        raise SystemExit(EngineError.exit_code) from None
    for record in records:
        done = f"compiled in {record.seconds:.0f} s" if record.compiled else "found in the cache"
        told = f"{record.backend}, {record.precision}" + (f", {record.batch} frames" if record.batch > 1 else "")
        say(f"engine {record.key[:12]} for {record.detector} ({told}): {record.note or done}")


def with_choice(settings: EngineSettings, precision: str | None) -> EngineSettings:
    """Return the settings for a build: ``precision`` where one is given, and inductor where the file says eager."""
    backend = "inductor" if settings.backend == "eager" else settings.backend
    return replace(settings, backend=backend, precision=precision or settings.precision)
