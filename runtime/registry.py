"""Finds plugins, built-in and installed, and knows which detector, weight file, protocol, publisher came from which.

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
from runtime.publisher import Publisher
from runtime.store.manifest import Version
from runtime.weights import WeightFile
from runtime.wire.header import MAX_TEXT_BYTES

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
    publishers: dict[str, Callable[[], Publisher]] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)
    #: "weights 'x'", "protocol 'x'" or "publisher 'x'" -> the distribution that registered it.
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

    def publisher(self, name: str) -> Publisher:
        """Make the publisher ``name``.

        Raises ``ConfigError`` listing what there is, or ``PluginError`` telling what the factory did wrong.
        """
        if name not in self.publishers:
            known = ", ".join(sorted(self.publishers)) or "none"
            hint = "".join(f"; plugin {b.plugin} ({b.distribution}) is broken: {b.error}" for b in self.broken)
            raise ConfigError(f"no publisher named {name!r}: installed are {known}{hint}")
        owner = self.owners[f"publisher {name!r}"]
        try:
            publisher = self.publishers[name]()
        except Exception as error:  # the factory is a stranger's code: its failure is a record, with its name
            raise PluginError(owner, f"making publisher {name!r} raised {_one_line(error)}") from error
        if not isinstance(publisher, Publisher) or getattr(publisher, "name", None) != name:
            raise PluginError(owner, f"expected a subclass of edgead.Publisher named {name!r}, found {publisher!r}")
        _check_model(owner, f"options_model of {name!r}", getattr(publisher, "options_model", None))
        return publisher

    def describe(self, name: str) -> dict[str, Any]:
        """Return what `edgead plugins` lists about a detector; makes it once to learn its version."""
        registered = self.detectors[name]
        record = {"name": name, "distribution": registered.distribution, "plugin": registered.plugin}
        try:
            detector = self.detector(name)
        except PluginError as error:
            return record | {"version": None, "settings": [], "error": str(error)}
        return record | {"version": detector.version, "settings": list(detector.settings_model.model_fields)}

    def describe_publisher(self, name: str) -> dict[str, Any]:
        """Return what `edgead plugins` lists about a publisher; makes it once to learn its options and what it needs.

        ``needs``: what to `pip install` for its protocol, empty where nothing is needed.
        """
        record = {"name": name, "distribution": self.owners[f"publisher {name!r}"]}
        try:
            publisher = self.publisher(name)
        except PluginError as error:
            return record | {"needs": "", "options": [], "error": str(error)}
        return record | {"needs": publisher.requirement, "options": list(publisher.options_model.model_fields)}


def load_plugins(builtins: Iterable[str], *, entry_points: bool = True) -> Registry:
    """Load the built-in plugin modules and every entry point in group ``edgead``, and let each register.

    Raises ``PluginError`` when two plugins claim one detector, weight, protocol or publisher name.
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
        ("edgead_register_publishers", offered.add_publisher),
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
    publishers: dict[str, Callable[[], Publisher]] = field(default_factory=dict)

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

    def add_publisher(self, name: str, factory: Callable[[], Publisher]) -> None:
        _check_name("a publisher", name)
        if not callable(factory):
            raise TypeError(f"expected a factory for publisher {name!r}, found {factory!r}")
        if name in self.registry.publishers | self.publishers:
            raise self._collision(f"publisher {name!r}")
        self.publishers[name] = factory

    def take_over(self) -> None:
        self.registry.detectors.update(self.detectors)
        self.registry.weights.update(self.weights)
        self.registry.protocols.update(self.protocols)
        self.registry.publishers.update(self.publishers)
        kept = [f"weights {name!r}" for name in self.weights] + [f"protocol {name!r}" for name in self.protocols]
        kept += [f"publisher {name!r}" for name in self.publishers]
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
    _check_model(registered.plugin, f"settings_model of {registered.name!r}", detector.settings_model)
    if detector.name != registered.name:
        raise PluginError(
            registered.plugin, f"registered as {registered.name!r}, but the detector calls itself {detector.name!r}"
        )


def _check_model(plugin: str, what: str, model: Any) -> None:
    if not (isinstance(model, type) and issubclass(model, BaseModel) and model.model_config.get("extra") == "forbid"):
        raise PluginError(plugin, f"expected a pydantic model with extra='forbid' as {what}, found {model}")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"
