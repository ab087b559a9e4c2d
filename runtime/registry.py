"""Finds plugins, built-in and installed, and knows which detector, weight file and protocol came from which.

A broken plugin never stops the others: it is listed with its error. Two plugins claiming one name do stop start-up,
because a station must not run a detector other than the one its file names.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import pluggy
from pydantic import BaseModel, TypeAdapter, ValidationError

from runtime import hookspecs
from runtime.detector import Detector
from runtime.errors import ConfigError, PluginError
from runtime.evaluation_protocol import EvaluationProtocol
from runtime.header import MAX_TEXT_BYTES
from runtime.manifest import Version
from runtime.weights import WeightFile

#: What a detector or a protocol may be called: a file name in the store, a word in station files and options.
_SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


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
    protocols: dict[str, EvaluationProtocol] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)
    #: "weights 'x'" or "protocol 'x'" -> the distribution that registered it.
    owners: dict[str, str] = field(default_factory=dict)

    def detector(self, name: str) -> Detector:
        """Make the detector ``name``.

        Raises ``ConfigError`` listing what there is, or ``PluginError`` telling what the factory did wrong.
        """
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

    def protocol(self, name: str) -> EvaluationProtocol:
        """Return the evaluation protocol ``name``; ``ConfigError`` lists what there is."""
        if name not in self.protocols:
            known = ", ".join(sorted(self.protocols)) or "none"
            raise ConfigError(f"no evaluation protocol named {name!r}: installed are {known}")
        return self.protocols[name]

    def describe(self, name: str) -> dict[str, Any]:
        """Return what `edgead plugins` lists about a detector; makes it once to learn its version."""
        registered = self.detectors[name]
        record = {"name": name, "distribution": registered.distribution, "plugin": registered.plugin}
        try:
            detector = self.detector(name)
        except PluginError as error:
            return record | {"version": None, "settings": [], "error": str(error)}
        return record | {"version": detector.version, "settings": list(detector.settings_model.model_fields)}


def load_plugins(builtins: Iterable[str], *, entry_points: bool = True) -> Registry:
    """Load the built-in plugin modules and every entry point in group ``edgead``, and let each register.

    Raises ``PluginError`` when two plugins claim one detector, weight or protocol name.
    """
    registry = Registry()
    manager = pluggy.PluginManager("edgead")
    manager.add_hookspecs(hookspecs)
    for dotted in builtins:
        _load(manager, registry, dotted, "edgead (built in)", partial(importlib.import_module, dotted))
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
    # A stranger's import or hook may raise anything, even SystemExit: recorded, shown by `edgead plugins`.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the guard that keeps one plugin from silencing the rest
        registry.broken.append(BrokenPlugin(name, distribution, _one_line(error)))
        if manager.has_plugin(f"{name} ({distribution})"):
            manager.unregister(name=f"{name} ({distribution})")


class _CollisionError(Exception):
    """Two plugins claim one name."""


def _call_hooks(manager: pluggy.PluginManager, registry: Registry, plugin: Any, name: str, distribution: str) -> None:
    """Call this one plugin's hooks and take over what they registered."""
    offered = _Offered(registry, name, distribution)
    for hook, register in (
        ("edgead_register_detectors", offered.add_detector),
        ("edgead_register_weights", offered.add_weights),
        ("edgead_register_protocols", offered.add_protocol),
    ):
        caller = getattr(manager.hook, hook)
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin:
                implementation.function(**({"register": register} if implementation.argnames else {}))
    offered.take_over()


@dataclass
class _Offered:
    """What one plugin registers, collected first: a plugin which raises half-way leaves nothing."""

    registry: Registry
    plugin: str
    distribution: str
    detectors: dict[str, RegisteredDetector] = field(default_factory=dict)
    weights: dict[str, WeightFile] = field(default_factory=dict)
    protocols: dict[str, EvaluationProtocol] = field(default_factory=dict)

    def add_detector(self, name: str, factory: Callable[[], Detector]) -> None:
        _check_name("a detector", name)
        if not callable(factory):
            raise TypeError(f"expected a factory for detector {name!r}, found {factory!r}")
        taken = self.registry.detectors.get(name)
        if taken or name in self.detectors:
            raise self._collision(f"detector {name!r}", f"{taken.plugin} ({taken.distribution})" if taken else None)
        self.detectors[name] = RegisteredDetector(name, factory, self.plugin, self.distribution)

    def add_weights(self, weight: WeightFile) -> None:
        if (self.registry.weights | self.weights).get(weight.name, weight) != weight:
            raise self._collision(f"weights {weight.name!r}")
        self.weights[weight.name] = weight

    def add_protocol(self, protocol: EvaluationProtocol) -> None:
        if not isinstance(protocol, EvaluationProtocol):
            raise TypeError(f"expected an edgead.EvaluationProtocol, found {protocol!r}")
        _check_name("a protocol", protocol.name)
        if protocol.name in self.registry.protocols | self.protocols:
            raise self._collision(f"protocol {protocol.name!r}")
        self.protocols[protocol.name] = protocol

    def take_over(self) -> None:
        self.registry.detectors.update(self.detectors)
        self.registry.weights.update(self.weights)
        self.registry.protocols.update(self.protocols)
        kept = [f"weights {name!r}" for name in self.weights] + [f"protocol {name!r}" for name in self.protocols]
        self.registry.owners.update(dict.fromkeys(kept, self.distribution))

    def _collision(self, what: str, owner: str | None = None) -> _CollisionError:
        owner = owner or self.registry.owners.get(what, "itself")
        return _CollisionError(f"{self.distribution} registers {what}, already taken by {owner}: uninstall one")


def _check_name(what: str, name: object) -> None:
    if not (isinstance(name, str) and _SLUG.fullmatch(name)):
        raise ValueError(f"expected {what} name of 1 to 64 of a-z 0-9 _ . -, found {name!r}")


def _check_contract(registered: RegisteredDetector, detector: object) -> None:
    """Refuse an object that is no ``Detector`` or calls itself something else than it was registered as."""
    if not isinstance(detector, Detector):
        raise PluginError(
            registered.plugin,
            f"expected a subclass of edgead.Detector from {registered.name!r}, found {type(detector)}",
        )
    for attribute in ("name", "version", "settings_model"):
        if not hasattr(detector, attribute):
            raise PluginError(registered.plugin, f"detector {registered.name!r} has no attribute {attribute!r}")
    try:
        TypeAdapter(Version).validate_python(detector.version, strict=True)
    except ValidationError as error:
        raise PluginError(
            registered.plugin,
            f"expected a text of 1 to {MAX_TEXT_BYTES} bytes as version of detector {registered.name!r}, "
            f"found {str(detector.version)[:60]!r} ({type(detector.version).__name__}); shorten or quote it",
        ) from error
    model: Any = detector.settings_model
    if not (isinstance(model, type) and issubclass(model, BaseModel) and model.model_config.get("extra") == "forbid"):
        raise PluginError(
            registered.plugin,
            f"expected a pydantic model with extra='forbid' as settings_model of {registered.name!r}, found {model}",
        )
    if detector.name != registered.name:
        raise PluginError(
            registered.plugin, f"registered as {registered.name!r}, but the detector calls itself {detector.name!r}"
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"
