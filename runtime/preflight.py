"""Checks a station before it runs: file, addresses, ledger, store, templates, plugins. Changes nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from runtime.engines.tensorrt.ready import BACKENDS as TENSORRT
from runtime.engines.tensorrt.ready import check_ready
from runtime.errors import ConfigError, EdgeadError, LedgerError, PluginError, TemplateError, WeightsError
from runtime.ledger import Reader
from runtime.ledger.opening import is_held
from runtime.publisher import secrets_of
from runtime.registry import Registry
from runtime.station.changes import lanes_of
from runtime.station.config import Camera, Ledger, Station, load_station
from runtime.store import Store
from runtime.store.template import Template
from runtime.weights import digest_of


@dataclass
class Preflight:
    """What was checked, in order, and what came out."""

    station: str
    checks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check["ok"] for check in self.checks)

    def note(self, check: str, examine: Callable[[], str]) -> bool:
        """Run one check; an ``EdgeadError`` is its failure."""
        try:
            detail, passed = examine(), True
        except EdgeadError as error:
            detail, passed = str(error), False
        self.checks.append({"check": check, "ok": passed, "detail": detail})
        return passed

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a check."""
        return self.checks

    def as_json(self) -> dict[str, Any]:
        """Return what `edgead validate --json` prints."""
        return {"station": self.station, "ok": self.ok, "checks": self.checks}


def check_station(path: Path, registry: Registry, *, beside_host: bool = False) -> Preflight:
    """Check the station file at ``path`` and everything it names.

    ``beside_host``: its host runs, so addresses and ledger are in use by it and are left alone; whether they may change
    is the host's to say.
    """
    report = Preflight(str(path))
    loaded: list[Station] = []
    stores: list[Store] = []
    if not report.note("station file", lambda: _load(path, loaded)):
        return report
    station = loaded[0]
    if not beside_host:
        _check_places(station, report)
    if station.worker.backend in TENSORRT:
        report.note("engine", partial(_tensorrt, station))
    if report.note("store", lambda: _open(station, stores)):
        for (name, recipe), (product, detector) in lanes_of(station).items():
            lane = f"camera {name}{f' recipe {recipe}' if recipe else ''}"
            report.note(lane, partial(check_lane, stores[0], product, detector, station.cameras[name], registry))
    for name in station.publishers:
        report.note(f"publisher {name}", partial(_publisher, station, name, registry, path.parent))
    return report


def _publisher(station: Station, name: str, registry: Registry, base: Path) -> str:
    """Check that the publisher is installed, its options are right, and its secrets and files are there."""
    from runtime.publishing.process import check_publisher

    publisher, options = check_publisher(registry, station, name)
    secrets = secrets_of(options)
    for secret in secrets:
        secret.read(base)
    try:
        publisher.check(options, base)
    except EdgeadError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise PluginError(publisher.name, f"its check of the options ended in {found}") from error
    return f"{publisher.name} with {len(secrets)} secret(s)"


def _tensorrt(station: Station) -> str:
    """Check that what the backend needs is here; loads torch only to look for the GPU, once the rest is there."""
    devices = {camera.device or station.worker.device for camera in station.cameras.values()}
    for device in sorted(devices):
        check_ready(station.worker.backend, device)
    return f"{station.worker.backend} on {', '.join(sorted(devices))}"


def _check_places(station: Station, report: Preflight) -> None:
    """Check what only one host can have at a time."""
    for key in ("frames", "results", "status", *(["deliveries"] if station.deliveries else [])):
        report.note(f"{key} address", partial(_free, getattr(station, key)))
    if station.ledger is not None:
        report.note("ledger", partial(_ledger, station.ledger, station.station))


def _load(path: Path, loaded: list[Station]) -> str:
    station = load_station(path)
    loaded.append(station)
    return f"station {station.station} with {len(station.cameras)} camera(s): {', '.join(station.cameras)}"


def _open(station: Station, stores: list[Store]) -> str:
    stores.append(Store(station.store))
    return str(station.store)


def check_lane(store: Store, product: str, detector_name: str, camera: Camera, registry: Registry) -> str:
    """Check that the detector is installed, its active template whole and of its version, its weights those it had."""
    registry.detector(detector_name)  # one that is not installed is named before a template is looked for
    template = store.active(product, detector_name)
    check_template(store, template, registry)
    value = template.manifest.thresholds.image
    threshold = "no image threshold: every verdict will be NotDecidable" if value is None else f"threshold {value:.4f}"
    found = f"{detector_name} for {product}: template {template.digest[:12]}"
    return f"{found}, {threshold}, deadline {camera.deadline_ms} ms"


def check_template(store: Store, template: Template, registry: Registry) -> None:
    """Check that a template is whole, and that its detector is installed in its version, with its weights."""
    detector = registry.detector(template.manifest.detector.name)
    problems = store.verify(template.digest)
    if problems:
        raise TemplateError("; ".join(str(problem) for problem in problems))
    made_by = template.manifest.detector.version
    if made_by != detector.version:
        raise TemplateError(
            f"template {template.digest[:12]} was made by {detector.name} version {made_by}, "
            f"installed is {detector.version}: calibrate again"
        )
    _weights(template, registry)


def _weights(template: Template, registry: Registry) -> None:
    """Raise ``WeightsError`` unless every registered weight file the template was made with is here."""
    for name, made_with in template.manifest.weights.items():
        if name not in registry.weights:
            continue  # a detector may look after its own weights
        found = digest_of(registry.weights[name])
        if found != made_with:
            raise WeightsError(
                f"template {template.digest[:12]} was made with {name} weights {made_with}, "
                f"this machine has {found}: calibrate again"
            )


def _ledger(settings: Ledger, name: str) -> str:
    """Check that the ledger's folder can be written, is this station's, and nobody holds it. Makes nothing."""
    place = settings.path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"{settings.path}: expected a folder that can be written, found that {place} is none")
    if not settings.file.exists():
        return f"{settings.path} will be made{_of_root()}"
    if is_held(settings.file):
        raise LedgerError(f"{settings.file}: another process writes it; is the station running already?")
    with Reader(settings.file) as reader:
        station, head, seq, _ = reader.head()
    if station != name:
        raise LedgerError(f"{settings.file}: expected the ledger of station {name!r}, found that of {station!r}")
    return f"{settings.file}: {seq} inspections in {head.record} records; `edgead ledger check` proves them{_of_root()}"


def _of_root() -> str:
    """Return what a check of permissions by root leaves open: root may write everywhere."""
    if os.geteuid() != 0:
        return ""
    return "; checked as root, who may write anywhere: run this as the user the station runs as"


def _free(address: str) -> str:
    """Try to bind a TCP address; an ipc address is taken as it is."""
    if not address.startswith("tcp://"):
        return address
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("" if host == "*" else host, int(port)))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{address} cannot be bound: {error}; is the station running already?") from error
    return f"{address} is free"
