"""Keeps a station's publishers, each in a process of its own, as its file has them: a thread beside the host.

Nothing of it touches the inspection loop: it starts processes, reads their figures, and is read by ``status``. When the
station file is applied, a publisher that is new, gone or changed is started, ended or restarted, and no other.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from runtime.lifecycle import State
from runtime.publishing.checksum import config_crc32
from runtime.publishing.child import STOP_S, Child
from runtime.station.config import Station

_LOOK_S = 0.2


class Publishers:
    """The publishers of one station; use as a context manager. ``base``: folder of the station file."""

    def __init__(self, station: Station, base: Path, builtins: Sequence[str]) -> None:
        self._base, self._builtins = base, list(builtins)
        self._station = station
        self._wanted = station
        self._children = {name: Child(name, setup) for name, setup in self._setups(station).items()}
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publishers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End them all together."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        for child in self._children.values():
            child.dismiss()
        give_up = time.monotonic() + STOP_S
        for child in self._children.values():
            child.reap(give_up)

    def apply(self, station: Station) -> None:
        """Make them those of ``station``, soon; from any thread, at once, the last word counts."""
        self._wanted = station
        self._wake.set()

    def _setups(self, station: Station) -> dict[str, dict[str, Any]]:
        common = {
            "station": station.model_dump_json(by_alias=True), "base": str(self._base), "builtins": self._builtins,
            "config_crc32": config_crc32(station),
        }  # fmt: skip
        return {name: {**common, "name": name} for name in station.publishers}

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._children:
                self._wake.wait()  # a station without publishers has nothing to look at
            if self._wake.is_set():
                self._wake.clear()
                self._follow(time.monotonic())
            children = self._children.values()
            for child in children:
                child.turn(time.monotonic())
            if any(child.is_gone for child in children):  # a new mapping: the status is read by another thread
                self._children = {name: child for name, child in self._children.items() if not child.is_gone}
            watched = select.poll()  # select() takes no descriptor from 1024 up, and a host may have more
            for child in children:
                if child.fileno() >= 0:
                    watched.register(child, select.POLLIN)
            watched.poll(_LOOK_S * 1000)
            if any(child.state is State.DEGRADED for child in children):
                self._stop.wait(_LOOK_S)  # a link at its end is readable for ever

    def _follow(self, now: float) -> None:
        """Start, end and restart what the applied station file asks for."""
        station, before = self._wanted, self._station  # never cleared here: another thread may set it at that moment
        if station is before:
            return
        self._station = station
        setups, children = self._setups(station), dict(self._children)
        for name, child in children.items():
            if name not in setups:
                child.leave(now)
        for name, setup in setups.items():
            if name not in children:
                children[name] = Child(name, setup)
            elif children[name].is_leaving or told_of(station, name) != told_of(before, name):
                children[name].change(setup, now)
            else:
                children[name].tell_checksum(setup)
        self._children = children

    def status(self) -> dict[str, Any]:
        """Return each publisher's state and figures by name, as `edgead status` shows them."""
        return {name: child.status() for name, child in self._children.items()}


def told_of(station: Station, name: str) -> Any:
    """Return what of a station file the publisher ``name`` runs by: where this differs it must be started anew."""
    recipes = {camera: tuple(each.recipes) for camera, each in station.cameras.items()}
    return station.publishers.get(name), recipes
