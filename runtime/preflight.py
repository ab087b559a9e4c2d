"""Checks a station before it runs: file, addresses, ledger, store, templates, plugins. Changes nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.config import Camera, Ledger, Station, load_station
from runtime.errors import ConfigError, EdgeadError, LedgerError, TemplateError, WeightsError
from runtime.ledger import Reader
from runtime.ledger.opening import is_held
from runtime.registry import Registry
from runtime.store import Store
from runtime.template import Template
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


def check_station(path: Path, registry: Registry) -> Preflight:
    """Check the station file at ``path`` and everything it names."""
    report = Preflight(str(path))
    loaded: list[Station] = []
    stores: list[Store] = []
    if not report.note("station file", lambda: _load(path, loaded)):
        return report
    station = loaded[0]
    for key in ("frames", "results", "status", *(["deliveries"] if station.deliveries else [])):
        report.note(f"{key} address", lambda key=key: _free(getattr(station, key)))  # type: ignore[misc]
    if station.ledger is not None:
        settings = station.ledger
        report.note("ledger", lambda: _ledger(settings, station.station))
    if report.note("store", lambda: _open(station, stores)):
        for name, camera in station.cameras.items():
            report.note(f"camera {name}", lambda camera=camera: _camera(stores[0], camera, registry))  # type: ignore[misc]
    return report


def _load(path: Path, loaded: list[Station]) -> str:
    station = load_station(path)
    loaded.append(station)
    return f"station {station.station} with {len(station.cameras)} camera(s): {', '.join(station.cameras)}"


def _open(station: Station, stores: list[Store]) -> str:
    stores.append(Store(station.store))
    return str(station.store)


def _camera(store: Store, camera: Camera, registry: Registry) -> str:
    """Check that the detector is installed, its active template whole and of its version, its weights those it had."""
    detector = registry.detector(camera.detector)
    template = store.active(camera.product, camera.detector)
    problems = store.verify(template.digest)
    if problems:
        raise TemplateError("; ".join(str(problem) for problem in problems))
    made_by = template.manifest.detector.version
    if made_by != detector.version:
        raise TemplateError(
            f"template {template.digest[:12]} was made by {camera.detector} version {made_by}, "
            f"installed is {detector.version}: calibrate again"
        )
    _weights(template, registry)
    value = template.manifest.thresholds.image
    threshold = "no image threshold: every verdict will be NotDecidable" if value is None else f"threshold {value:.4f}"
    found = f"{camera.detector} for {camera.product}: template {template.digest[:12]}"
    return f"{found}, {threshold}, deadline {camera.deadline_ms} ms"


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
        return f"{settings.path} will be made"
    if is_held(settings.file):
        raise LedgerError(f"{settings.file}: another process writes it; is the station running already?")
    with Reader(settings.file) as reader:
        station, head, seq, _ = reader.head()
    if station != name:
        raise LedgerError(f"{settings.file}: expected the ledger of station {name!r}, found that of {station!r}")
    return f"{settings.file}: {seq} inspections in {head.record} records; `edgead ledger check` proves them"


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
