"""What turns a running station into the wanted one: a pure comparison, for `edgead apply` to show and the host to do.

Every key of the station file has one effect, listed in ``EFFECTS`` (a test walks the models, so that no key is
forgotten; one that is not listed asks for a restart, which is always right). Nothing here reads a file or a store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runtime.station.config import Station

#: One road to a worker: (camera, recipe); recipe "" is the product and detector the camera itself names.
LaneKey = tuple[str, str]
_TEMPLATE = "template"
#: Digits of a template id that people are shown.
_SHORT = 12


class Effect(StrEnum):
    """What a change asks of the running host, the gravest first."""

    RESTART = "restart"
    """Only a restart of the host brings it: it is refused as a whole."""
    REMOVE = "remove"
    """A camera or recipe goes: its frames in hand are answered, then its worker ends."""
    ADD = "add"
    """A camera or recipe comes: a worker of its own is started."""
    SWAP = "swap"
    """A new worker is loaded beside the running one, proves itself, and takes over at a trigger boundary."""
    HOST = "host"
    """The host's own bookkeeping: it takes effect with the next frame, no worker is touched."""
    PUBLISHER = "publisher"
    """A publisher's process is started, ended or restarted; the station is not touched."""


#: Key of the station file -> effect. "*": any name. A key stands for everything below it.
EFFECTS: dict[str, Effect] = {
    **dict.fromkeys(("schema", "station", "store", "max_frame_bytes", "ledger"), Effect.RESTART),
    # Triggers already raised wait by the old rules.
    **dict.fromkeys(("cameras.*.triggers", "cameras.*.match", "cameras.*.early_ms"), Effect.RESTART),
    # What it does shows in the cameras' deadlines.
    "parts_per_min": Effect.HOST,
    # A publisher is a process of its own, fed by the deliveries.
    "publishers": Effect.PUBLISHER,
    # Sockets are bound once: peers that are connected would be cut off without a word.
    **dict.fromkeys(("frames", "results", "status", "deliveries"), Effect.RESTART),
    # The size of the shared memory and what the worker is told at its start: a new worker's.
    **dict.fromkeys(("cameras.*.product", "cameras.*.detector", "cameras.*.queue"), Effect.SWAP),
    **dict.fromkeys(("cameras.*.exposure", "cameras.*.repeat_limit", "cameras.*.recipes.*"), Effect.SWAP),
    **dict.fromkeys(("cameras.*.device", "cameras.*.priority", "cameras.*.worker"), Effect.SWAP),
    **dict.fromkeys(("worker.device", "worker.threads", "publish.map", "publish.preview"), Effect.SWAP),
    **dict.fromkeys(("worker.backend", "worker.precision", "worker.engines", "worker.engines_mb"), Effect.SWAP),
    **dict.fromkeys(("worker.batch", "worker.batch_wait_ms"), Effect.SWAP),
    **dict.fromkeys(("cameras.*.deadline_ms", "cameras.*.swap", "cameras.*.guard"), Effect.HOST),
    **dict.fromkeys(("worker.start_timeout_s", "worker.hang_s", "worker.self_test_s"), Effect.HOST),
    **dict.fromkeys(("worker.restart_budget", "worker.restart_window_s"), Effect.HOST),
}
#: Keys whose members have names of the integrator's choosing: one that comes or goes is added or removed as a whole.
_NAMED = ("cameras", "cameras.*.recipes")
#: Keys of a recipe or camera that its own lane alone hangs on; any other key of a camera is shared by its recipes.
_OWN_OF_CAMERA = ("product", "detector")


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. ``before`` and ``after``: plain values, None where there is nothing.

    ``path``: the key's parts as in the station file, or ``("cameras", NAME, ..., "template")`` for another active
    template, which no file says.
    """

    path: tuple[str, ...]
    before: Any
    after: Any
    effect: Effect

    @property
    def key(self) -> str:
        """The key as messages name it: ``cameras.top.deadline_ms``."""
        return ".".join(self.path)

    @property
    def camera(self) -> str | None:
        """The camera it belongs to; None for a key of the whole station."""
        return self.path[1] if self.path[0] == "cameras" and len(self.path) > 1 else None

    @property
    def recipe(self) -> str:
        """The camera's recipe it belongs to; "" for the camera itself."""
        return self.path[3] if self.path[2:3] == ("recipes",) and len(self.path) > 3 else ""  # noqa: PLR2004 - its place

    @property
    def is_template(self) -> bool:
        """Whether the active template changed, not the file."""
        own = self.path[4:] if self.path[2:3] == ("recipes",) else self.path[2:]
        return self.path[0] == "cameras" and own == (_TEMPLATE,)

    @property
    def sentence(self) -> str:
        """The change and what it will do, in one line."""
        match self.effect:
            case Effect.ADD:
                return f"{self.key} is added: {_short(self.after)}; {_DOES[self.effect]}"
            case Effect.REMOVE:
                return f"{self.key} is removed; {_DOES[self.effect]}"
        return f"{self.key}: {_short(self.before)} -> {_short(self.after)}; {_DOES[self.effect]}"

    def as_json(self) -> dict[str, Any]:
        """Return the change as `edgead apply --json` prints it."""
        return {
            "key": self.key,
            "camera": self.camera,
            "recipe": self.recipe,
            "from": self.before,
            "to": self.after,
            "effect": self.effect.value,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Every change, in the order of the station file, and the lanes they touch."""

    changes: tuple[Change, ...]
    #: Lanes that get a new worker, those that are new, and those that go.
    swapped: tuple[LaneKey, ...]
    added: tuple[LaneKey, ...]
    removed: tuple[LaneKey, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.changes)

    @property
    def restart(self) -> tuple[str, ...]:
        """The keys that need a restart; while there are any, nothing of the plan may be done."""
        return tuple(change.key for change in self.changes if change.effect is Effect.RESTART)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as `edgead apply --json` prints it; lanes as [camera, recipe]."""
        lanes = {"swapped": self.swapped, "added": self.added, "removed": self.removed}
        return {
            "changes": [change.as_json() for change in self.changes],
            "restart": list(self.restart),
            **{name: [list(lane) for lane in each] for name, each in lanes.items()},
        }


def plan_changes(
    running: Station,
    wanted: Station,
    running_templates: Mapping[LaneKey, str],
    active_templates: Mapping[LaneKey, str],
) -> Plan:
    """Compare two checked stations and the templates of their lanes.

    ``running_templates``: digest each lane of ``running`` runs now. ``active_templates``: digest that is active in the
    store for each lane of ``wanted``; a lane that is in neither is compared by the station files alone.
    """
    before, after = _plain(running), _plain(wanted)
    changes = [*_differences(before, after, ()), *_template_changes(before, after, running_templates, active_templates)]
    order = {key: index for index, key in enumerate(after)}
    changes.sort(key=lambda change: order[change.path[0]])  # stable: within a key as found
    old, new = lanes_of(running), lanes_of(wanted)
    return Plan(
        changes=tuple(changes),
        swapped=tuple(lane for lane in new if lane in old and any(_touches(change, lane) for change in changes)),
        added=tuple(lane for lane in new if lane not in old),
        removed=tuple(lane for lane in old if lane not in new),
    )


def lanes_of(station: Station) -> dict[LaneKey, tuple[str, str]]:
    """Return (product, detector) of every lane a station has, in the order of the file."""
    lanes: dict[LaneKey, tuple[str, str]] = {}
    for name, camera in station.cameras.items():
        lanes[name, ""] = camera.product, camera.detector
        for recipe, each in camera.recipes.items():
            lanes[name, recipe] = each.product, each.detector
    return lanes


def effect_of(path: tuple[str, ...]) -> Effect:
    """Return what a change of this key of the station file asks; of a key that is not listed, a restart."""
    for length in range(len(path), 0, -1):
        for key, effect in EFFECTS.items():
            if _matches(key, path[:length]):
                return effect
    return Effect.RESTART


def _plain(station: Station) -> dict[str, Any]:
    return station.model_dump(mode="json", by_alias=True)


def _differences(before: Any, after: Any, path: tuple[str, ...]) -> Iterator[Change]:
    """Yield the smallest keys that differ; a named member that comes or goes is one change."""
    if before == after:
        return
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield Change(path, before, after, effect_of(path))
        return
    named = any(_matches(key, path) for key in _NAMED)
    for key in [*after, *(key for key in before if key not in after)]:
        here = (*path, key)
        if named and key not in before:
            yield Change(here, None, after[key], Effect.ADD)
        elif named and key not in after:
            yield Change(here, before[key], None, Effect.REMOVE)
        else:
            yield from _differences(before.get(key), after.get(key), here)


def _template_changes(
    before: dict[str, Any], after: dict[str, Any], running: Mapping[LaneKey, str], active: Mapping[LaneKey, str]
) -> Iterator[Change]:
    """Yield the lanes, there before and after, whose active template is another one now."""
    for camera, settings in after["cameras"].items():
        if camera not in before["cameras"]:
            continue
        kept = [recipe for recipe in settings["recipes"] if recipe in before["cameras"][camera]["recipes"]]
        for recipe in ("", *kept):
            old, new = running.get((camera, recipe)), active.get((camera, recipe))
            if old != new:
                place = ("recipes", recipe) if recipe else ()
                yield Change(("cameras", camera, *place, _TEMPLATE), old, new, Effect.SWAP)


def _touches(change: Change, lane: LaneKey) -> bool:
    """Tell whether this change gives this lane a new worker."""
    if change.effect is not Effect.SWAP:
        return False
    camera, recipe = lane
    if change.camera is None:
        return True
    if change.camera != camera:
        return False
    own = change.recipe or change.is_template or change.path[2] in _OWN_OF_CAMERA
    return change.recipe == recipe if own else True


def _matches(key: str, path: tuple[str, ...]) -> bool:
    parts = key.split(".")
    return len(parts) == len(path) and all(part in ("*", found) for part, found in zip(parts, path, strict=True))


def _short(value: Any) -> str:
    """Return a value as a table shows it: a digest by its first digits, an object by its keys."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items() if each is not None)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text[:_SHORT] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text  # noqa: PLR2004 - sha256


_DOES = {
    Effect.RESTART: "needs a restart of the host",
    Effect.REMOVE: "its frames in hand are answered, then its worker ends",
    Effect.ADD: "a worker of its own is started",
    Effect.SWAP: "a new worker is loaded beside the running one and takes over when it has proven itself",
    Effect.HOST: "takes effect with the next frame, the worker stays",
    Effect.PUBLISHER: "that publisher alone is started, ended or restarted",
}
