"""What `edgead use` selects, and its way back: a detector in the station file, or a template in the store.

Selecting changes one thing, durably and in one step, and says what; a running host is told afterwards by the caller,
who takes the selection back when the host refuses it, so that file, store and running station agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import ConfigError, EdgeadError, TemplateError
from runtime.preflight import check_lane, check_template
from runtime.registry import Registry
from runtime.station.changes import lanes_of
from runtime.station.config import Station
from runtime.station.edit import StationEdit, edit_detector
from runtime.store import Store
from runtime.store.activation import Activation
from runtime.store.template import Template


@dataclass(frozen=True)
class DetectorSelection:
    """A camera gets another detector in its station file. ``sentence``: what is selected, for people."""

    edit: StationEdit
    sentence: str

    def select(self) -> bool:
        """Write the edited file; False if it says so already. On ``ConfigError`` the old one stays."""
        self.edit.write()
        return self.edit.before != self.edit.after

    def take_back(self) -> str:
        """Write the old file again; return what was done. ``ConfigError`` if somebody edited it since."""
        self.edit.undo()
        return f"{self.edit.path} is as it was"


@dataclass
class TemplateSelection:
    """A product and detector get another active template in the store. ``sentence``: what is selected, for people."""

    store: Store
    template: Template
    who: str
    why: str
    sentence: str
    _done: Activation | None = field(default=None, init=False)

    def select(self) -> bool:
        """Activate the template, every byte proven; False if it is active. On ``TemplateError`` the old one stays."""
        self._done = self.store.activate(self.template.digest, who=self.who, why=self.why)
        return self._done.changed

    def take_back(self) -> str:
        """Activate what was active before, unless somebody activated another one since; return what was done."""
        done = self._done
        if done is None or not done.changed:
            return "nothing was activated"
        active = self.store.active(done.product, done.detector).digest
        if active == done.old:
            return f"template {active[:12]} is active again"  # the host has put it back already
        if active != done.new or done.old is None:
            return f"template {active[:12]} stays active in the store"
        self.store.activate(done.old, who=self.who, why=f"{done.new[:12]} was refused by the running station")
        return f"template {done.old[:12]} is active again"


Selection = DetectorSelection | TemplateSelection


def choose(
    name: str, station: Station, file: Path, registry: Registry, *, camera: str | None, who: str, why: str
) -> Selection:
    """Return what ``name`` stands for: a detector that is installed, else a template by its id or first digits.

    ``camera``: the one meant; None where there is only one to mean. Changes nothing. Raises ``EdgeadError`` when there
    is nothing of that name, it does not belong to a camera of the station, or it could not run.
    """
    if camera is not None and camera not in station.cameras:
        raise ConfigError(f"--camera: expected one of {', '.join(station.cameras)}, found {camera!r}")
    if name in registry.detectors:
        return _detector(name, station, file, registry, camera)
    store = Store(station.store)
    try:
        template = store.template(name)
    except TemplateError as error:
        known = ", ".join(sorted(registry.detectors))
        raise ConfigError(f"expected a detector ({known}) or a template id, found {name!r}: {error}") from error
    selection = _template(store, template, station, camera, who=who, why=why)
    check_template(store, template, registry)
    return selection


def _detector(name: str, station: Station, file: Path, registry: Registry, camera: str | None) -> Selection:
    if camera is None:
        if len(station.cameras) > 1:
            raise ConfigError(f"expected --camera with one of {', '.join(station.cameras)}: each has its own detector")
        (camera,) = station.cameras
    settings = station.cameras[camera]
    store = Store(station.store)
    try:
        check_lane(store, settings.product, name, settings, registry)
    except TemplateError as error:
        raise TemplateError(
            f"camera {camera}: {name} cannot run for product {settings.product}: {error}. Such as: edgead calibrate "
            f"FOLDER --product {settings.product} --detector {name} --store {station.store} --activate"
        ) from error
    template = store.active(settings.product, name)
    sentence = f"camera {camera}: {settings.detector} -> {name} with template {template.digest[:12]}, in {file}"
    return DetectorSelection(edit_detector(file, camera, name), sentence)


def _template(
    store: Store, template: Template, station: Station, camera: str | None, *, who: str, why: str
) -> Selection:
    product, detector = template.manifest.product, template.manifest.detector.name
    lanes = lanes_of(station)
    users = sorted({name for (name, _), runs in lanes.items() if runs == (product, detector)})
    if (camera is not None and camera not in users) or not users:
        listed = "; ".join(
            f"{name}: {each}" for name, each in ((_label(key), f"{p}/{d}") for key, (p, d) in lanes.items())
        )
        raise ConfigError(
            f"template {template.digest[:12]} is for product {product} and detector {detector}, which "
            f"{'no camera' if camera is None else f'camera {camera}'} of the station runs ({listed}): "
            f"`edgead use {detector}` first, or `edgead templates activate` for another station"
        )
    sentence = f"camera {', '.join(users)}: template {template.digest[:12]} of {product} for {detector}"
    return TemplateSelection(store, template, who, why, sentence)


def _label(lane: tuple[str, str]) -> str:
    return f"{lane[0]} recipe {lane[1]}" if lane[1] else lane[0]


def taken_back(selection: Selection) -> str:
    """Take a selection back; a failure of that is the sentence, because the refusal itself must be told first."""
    try:
        return selection.take_back()
    except EdgeadError as error:
        return f"it could not be taken back: {error}"
