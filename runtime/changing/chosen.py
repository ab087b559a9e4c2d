"""The recipes picked by command, in a small file beside the ledger: a restart must not judge by another product.

The file is written, synced and renamed before the choice takes effect. A station without a ledger keeps no such file,
so it takes no such command: there the recipe must be named in every frame or trigger. A file that cannot be read, or
names a recipe the station has no longer, or is gone although the ledger tells of a choice, leaves the choice open:
frames that name none are then NotDecidable, bad_command, until somebody picks one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runtime.changing.route import Route, Routes
from runtime.disk import durable
from runtime.errands import Errands
from runtime.errors import ConfigError, EdgeadError, LedgerError, TemplateError
from runtime.ledger import Event, Reader
from runtime.station.config import Ledger

log = logging.getLogger("edgead.host")

FILE = "recipes.json"
SCHEMA = "edgead.recipes/1"


def write(folder: Path, chosen: Mapping[str, str]) -> None:
    """Write the recipe of each camera ("": its own product), durably. Raises ``TemplateError`` if it cannot be."""
    durable.make_folder(folder)
    text = json.dumps({"schema": SCHEMA, "cameras": dict(chosen)}, indent=1, sort_keys=True)
    durable.write_file(folder / FILE, text.encode(), folder)


def read(folder: Path) -> dict[str, str] | None:
    """Return the recipe of each camera as last picked, empty if none ever was, None for a file that is damaged."""
    path = folder / FILE
    try:
        with durable.translated("read", path):
            data = path.read_bytes() if path.exists() else None
        if data is None:
            return {}
        found = json.loads(data)
        cameras = found["cameras"]
        is_sound = found["schema"] == SCHEMA and all(type(text) is str for each in cameras.items() for text in each)
    except (TemplateError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.error("%s cannot be used, pick the recipes again: %s", path, error)  # noqa: TRY400 -- one line
        return None
    if not is_sound:
        log.error("%s: expected schema %s and names, found %r: pick the recipes again", path, SCHEMA, data[:80])
        return None
    return dict(cameras)


def told_by(ledger: Path) -> dict[str, str] | None:
    """Return the recipe of each camera as the ledger's events have it, None where it cannot be read."""
    try:
        with Reader(ledger) as reader:
            return {each.detail["camera"]: each.detail["to"] for each in reader.events(kind=Event.RECIPE)}
    except LedgerError as error:
        log.error("it is not known which recipes were picked, pick them again: %s", error)  # noqa: TRY400 -- one line
        return None


class Chosen:
    """Picks recipes by command. ``ledger``: the file lies beside it; None: there is none. ``errands`` write it."""

    def __init__(self, routes: Routes, ledger: Ledger | None, errands: Errands) -> None:
        self._routes = routes
        self._folder = None if ledger is None else ledger.path
        self._errands = errands
        self._is_writing = False
        if ledger is not None:
            self._restore(ledger)

    def _restore(self, ledger: Ledger) -> None:
        """Have each camera with recipes go on with the one picked last."""
        chosen = read(ledger.path)
        if chosen == {} and any(len(route.posts) > 1 for route in self._routes.by_camera.values()):
            told = told_by(ledger.file)
            if told is None or any(told.values()):  # somebody removed the file
                log.error("%s is gone, pick the recipes again; the ledger tells of %s", ledger.path / FILE, told)
                chosen = None
        for route in self._routes.by_camera.values():
            if len(route.posts) == 1 and (chosen is None or not chosen.get(route.name)):
                continue  # there is only one it could be
            picked = None if chosen is None else chosen.get(route.name, "")
            route.current = picked if picked in route.posts else None
            if route.current is None and chosen is not None:
                log.error("%s: recipe %r, picked before, is no longer in the station file", route.name, picked)

    def pick(self, recipe: str, camera: str | None, answer: Callable[[dict[str, Any]], None]) -> None:
        """Make a recipe ("": the camera's own product) the current one, once that is written down; then ``answer``.

        ``camera`` None: of every camera that has it. Raises ``ConfigError`` where it cannot be picked.
        """
        asked = [route for name, route in self._routes.by_camera.items() if camera in (None, name)]
        having = [route for route in asked if recipe in route.posts and (camera or len(route.posts) > 1)]
        if not having:
            known = "; ".join(f"{route.name}: {', '.join(filter(None, route.posts)) or 'none'}" for route in asked)
            raise ConfigError(f"expected a recipe the station knows ({known or 'no such camera'}), found {recipe!r}")
        if self._folder is None:
            raise ConfigError(
                "a picked recipe must survive a restart, and without `ledger` there is no place for it: "
                "name the recipe in every frame or trigger, or give the station a ledger"
            )
        if self._is_writing:
            raise ConfigError("another recipe is being picked at this moment: ask again")
        current = {name: route.current for name, route in self._routes.by_camera.items() if route.current is not None}
        current |= {route.name: recipe for route in having}
        folder, self._is_writing = self._folder, True
        self._errands.run(lambda: write(folder, current), lambda result: self._picked(result, recipe, having, answer))

    def _picked(
        self, result: EdgeadError | None, recipe: str, having: list[Route], answer: Callable[[dict[str, Any]], None]
    ) -> None:
        self._is_writing = False
        if isinstance(result, EdgeadError):
            answer({"ok": False, "error": str(result)})
            return
        for route in having:
            if recipe in route.posts:  # else it was taken out meanwhile
                detail = {"camera": route.name, "from": route.current, "to": recipe}
                self._routes.note(route.name, Event.RECIPE, detail)
                log.info("%s: frames that name no recipe are %r from now on", route.name, recipe)
                route.current = recipe
        answer({"ok": True, "recipe": recipe, "cameras": [route.name for route in having]})
