"""Finds plugins, built-in and installed, and knows which detector and weight file came from which.

A broken plugin never stops the others: it is listed with its error. Two plugins claiming one name do stop start-up, because a
station must not run a detector other than the one its file names.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pluggy

from runtime import hookspecs
from runtime.detector import Detector
from runtime.errors import ConfigError, PluginError
from runtime.weights import WeightFile


@dataclass(frozen=True)
class RegisteredDetector:
    """A detector's factory and where it came from."""

    name: str
    factory: Callable[[], Detector]
    plugin: str
    distribution: str


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be loaded, and why, in one line."""

    plugin: str
    distribution: str
    error: str


@dataclass
class Registry:
    """Everything the loaded plugins registered."""

    detectors: dict[str, RegisteredDetector] = field(default_factory=dict)
    weights: dict[str, WeightFile] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)
    _weight_owner: dict[str, str] = field(default_factory=dict)

    def detector(self, name: str) -> Detector:
        """Make the detector ``name``; ``ConfigError`` lists what there is, ``PluginError`` tells what its factory did wrong."""
        registered = self.detectors.get(name)
        if registered is None:
            known = ", ".join(sorted(self.detectors)) or "none"
            hint = "".join(f"; plugin {b.plugin} ({b.distribution}) is broken: {b.error}" for b in self.broken)
            raise ConfigError(f"no detector named {name!r}: installed are {known}{hint}")
        try:
            detector = registered.factory()
        except Exception as error:  # the factory is a stranger's code: its failure is a record, with its name
            raise PluginError(registered.plugin, f"making detector {name!r} raised {_one_line(error)}") from error
        _check_contract(registered, detector)
        return detector


def load_plugins(builtins: Iterable[str], *, entry_points: bool = True) -> Registry:
    """Load the built-in plugin modules and every entry point in group ``edgead``, and let each register.

    Raises ``PluginError`` when two plugins claim one detector or weight name.
    """
    registry = Registry()
    manager = pluggy.PluginManager("edgead")
    manager.add_hookspecs(hookspecs)
    for dotted in builtins:
        _load(manager, registry, dotted, "edgead (built in)", lambda dotted=dotted: importlib.import_module(dotted))
    if entry_points:
        found = importlib.metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP)
        for entry in sorted(found, key=lambda e: (e.dist.name if e.dist else "", e.name)):
            distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"
            _load(manager, registry, entry.name, distribution, entry.load)
    return registry


def _load(
    manager: pluggy.PluginManager,
    registry: Registry,
    name: str,
    distribution: str,
    load: Callable[[], ModuleType | Any],
) -> None:
    """Load and register one plugin; anything it raises makes it a ``BrokenPlugin``, except a name collision."""
    try:
        plugin = load()
        manager.register(plugin, name=f"{name} ({distribution})")
        manager.check_pending()
        _call_hooks(manager, registry, plugin, name, distribution)
    except _CollisionError as collision:
        raise PluginError(name, str(collision)) from None
    except Exception as error:  # a stranger's import or hook may raise anything: recorded, shown by `edgead plugins`
        registry.broken.append(BrokenPlugin(name, distribution, _one_line(error)))
        if manager.has_plugin(f"{name} ({distribution})"):
            manager.unregister(name=f"{name} ({distribution})")


class _CollisionError(Exception):
    """Two plugins claim one name."""


def _call_hooks(manager: pluggy.PluginManager, registry: Registry, plugin: Any, name: str, distribution: str) -> None:
    """Call this one plugin's hooks. Names are collected first, so that a plugin which raises half-way leaves nothing."""
    detectors: dict[str, RegisteredDetector] = {}
    weights: dict[str, WeightFile] = {}

    def add_detector(detector: str, factory: Callable[[], Detector]) -> None:
        taken = registry.detectors.get(detector)
        if taken or detector in detectors:
            owner = f"{taken.plugin} ({taken.distribution})" if taken else "itself"
            raise _CollisionError(f"{distribution} registers detector {detector!r}, already taken by {owner}: uninstall one")
        detectors[detector] = RegisteredDetector(detector, factory, name, distribution)

    def add_weights(weight: WeightFile) -> None:
        if registry.weights.get(weight.name, weight) != weight:
            owner = registry._weight_owner[weight.name]  # noqa: SLF001 - same file
            raise _CollisionError(f"{distribution} registers weights {weight.name!r}, already taken by {owner}: uninstall one")
        weights[weight.name] = weight

    for hook, register in (("edgead_register_detectors", add_detector), ("edgead_register_weights", add_weights)):
        caller = getattr(manager.hook, hook)
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin:
                implementation.function(**({"register": register} if implementation.argnames else {}))
    registry.detectors.update(detectors)
    registry.weights.update(weights)
    registry._weight_owner.update(dict.fromkeys(weights, distribution))  # noqa: SLF001 - same file


def _check_contract(registered: RegisteredDetector, detector: object) -> None:
    """Refuse an object that is no ``Detector`` or calls itself something else than it was registered as."""
    if not isinstance(detector, Detector):
        raise PluginError(
            registered.plugin, f"expected a subclass of edgead.Detector from {registered.name!r}, found {type(detector)}"
        )
    for attribute in ("name", "version", "settings_model"):
        if not hasattr(detector, attribute):
            raise PluginError(registered.plugin, f"detector {registered.name!r} has no attribute {attribute!r}")
    if detector.name != registered.name:
        raise PluginError(
            registered.plugin, f"registered as {registered.name!r}, but the detector calls itself {detector.name!r}"
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"
