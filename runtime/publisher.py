"""What the author of a publisher implements: results out to a PLC or MES, triggers and recipes in.

A publisher runs in a process of its own (``runtime.publishing.process``), fed by the station's durable deliveries under
a name of its own. So nothing it does, and nothing its peers do to it, reaches the inspection loop, and nothing is lost
while it or they are away. Protocol libraries are imported inside ``run``.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from runtime.errors import ConfigError

if TYPE_CHECKING:
    from runtime.delivery.client import Delivered


class Options(BaseModel):
    """Base of a publisher's options in the station file: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Secret(Options):
    """A password, key or token: never in the station file itself, which is copied, printed and checked in."""

    env: Annotated[str, Field(min_length=1)] | None = None
    """Environment variable that holds it."""
    file: Annotated[Path, Field(strict=False)] | None = None
    """File that holds it, relative to the station file; the line break at its end does not count."""

    def read(self, base: Path) -> str:
        """Return the secret; ``ConfigError`` says where it was looked for. ``base``: folder of the station file."""
        if (self.env is None) == (self.file is None):
            raise ConfigError("expected a secret's `env` or its `file`, found both or neither: name one of the two")
        if self.env is not None:
            if self.env not in os.environ:
                raise ConfigError(f"expected a secret in the environment variable {self.env}, found none: set it")
            return os.environ[self.env]
        try:
            return (base / (self.file or "")).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"expected a secret in {self.file}, cannot be read: {error}") from error


def secrets_of(value: Any) -> list[Secret]:
    """Return every secret in a publisher's options, however deep it lies."""
    if isinstance(value, Secret):
        return [value]
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [secret for each in value for secret in secrets_of(each)]
    return []


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the host's inspection loop last said of itself.

    ``beats``: answers of the loop counted by this process. Each is made by one turn of the loop that also takes frames
    and publishes results; a frozen or killed host gives no more, whatever its other threads do. ``alive``: the last one
    is no older than ``runtime.publishing.pulse.DEAD_S``. ``status``: the station's status, empty before the first.
    """

    beats: int = 0
    alive: bool = False
    status: Mapping[str, Any] = field(default_factory=dict)


class TriggerAnswer(NamedTuple):
    """The station's word on a trigger: the ``seq`` of its result, or 0 and the word why it will never have one.

    The result itself comes by the feed; not again where the station answers a repeated trigger with its first result.
    """

    camera: str
    trigger_id: int
    seq: int
    refused: str


class Feed(Protocol):
    """Every result of the station, in order, at least once over all failures. Used by one thread."""

    def receive(self, timeout_s: float) -> Delivered | None:
        """Return the next result, or None after ``timeout_s`` without one.

        Results this publisher was ``done`` with before it was restarted are left out. Raises ``StationError`` where
        another process has taken its name.
        """

    def is_done(self, result_id: str) -> bool:
        """Tell whether a result was ``done``, also by an earlier process; safe from any thread."""

    def done(self, delivered: Delivered) -> None:
        """Take a result as handed over: it is remembered and never comes again. In any order, but not for ever.

        At most 128 results come beyond one that is not done.
        """


class Line(Protocol):
    """What a publisher may ask of the station. Safe from any thread; nothing here waits longer than it says."""

    def pulse(self) -> Pulse:
        """Return the host's latest sign of life."""

    def trigger(
        self, camera: str, trigger_id: int, part_id: str = "", recipe: str = "", raised_ns: int | None = None
    ) -> None:
        """Raise a trigger; its result comes through the feed, the station's word on it through ``answers``.

        It is written down, and sent until the station has answered it, also by this publisher's next process. One that
        waits already is not raised again: the same camera, id, part, recipe and, where it is given, ``raised_ns``.
        Raises ``ConfigError`` for fields it cannot carry, ``StationError`` if the id waits for another part, too many
        wait, or it cannot be written down.
        """

    def answers(self) -> Sequence[TriggerAnswer]:
        """Return the station's word on triggers since the last call: a result's ``seq``, or why there will be none."""

    def select_recipe(self, camera: str, recipe: str) -> None:
        """Make ``recipe`` the camera's current one, for frames and triggers that name none; "" is the camera's own.

        Waits for the answer, at most two seconds. Raises ``StationError`` with the station's sentence if it refuses.
        """


@dataclass(frozen=True)
class PublisherContext:
    """What edgead lends a publisher while it runs.

    ``name``: its key in the station file. ``station``: name of the station. ``cameras``: camera -> its recipe ids.
    ``checksum``: see ``config_crc32``. ``folder``: for what it must keep over restarts; it
    exists. ``base``: folder that relative paths of options belong to. ``stopping``: set when it must end. ``report``:
    its figures, a small JSON object, shown by `edgead status`; call it when they change.
    """

    name: str
    station: str
    cameras: Mapping[str, tuple[str, ...]]
    folder: Path
    base: Path
    line: Line
    stopping: threading.Event
    report: Callable[[Mapping[str, Any]], None]
    checksum: Callable[[], int]

    @property
    def config_crc32(self) -> int:
        """CRC-32 of the content of the station file that is applied now: read it each time it is shown."""
        return self.checksum()


class Publisher(ABC):
    """One protocol: subclass, register with ``edgead_register_publishers``; see docs/publishers.md."""

    #: Name in station files, a slug such as ``modbus``.
    name: ClassVar[str]
    #: pydantic model of the options; subclass ``Options``.
    options_model: ClassVar[type[BaseModel]]
    #: Modules it needs, and the requirement to name in `pip install`: ``"edgead[modbus]"``.
    modules: ClassVar[tuple[str, ...]] = ()
    requirement: ClassVar[str] = ""

    def check(self, options: BaseModel, base: Path) -> None:
        """Look at the files that checked ``options`` name, relative ones from ``base``; nothing by default.

        For `edgead validate`, in well under a second, without a socket: raise ``ConfigError`` with the option, what it
        should name, what is there, and what to do.
        """
        del options, base

    @abstractmethod
    def run(self, feed: Feed, options: BaseModel, context: PublisherContext) -> None:
        """Publish until ``context.stopping`` is set, then return within three seconds.

        Raise an ``EdgeadError`` with a sentence the user can act on; whatever is raised ends this process, which is
        started again with growing pauses. Call ``feed.done`` only when a result is where it must not be lost.
        """
