"""What a run through chaos does, drawn from one number: every part with its truth, every blow with its moment.

A part is *sound* (a good or a bad one, or a slow detector) or *faulted*: the detector or the camera misbehaves over it,
and whatever the station says of it, it must not be OK. Left out are two faults no station can see in one frame: a map
of the frame before behind a frame that failed itself, and scores that drift (the self-test of an idle worker is for
those).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from runtime.testing.faulty import Fault, marked

SHAPE = (32, 48)
#: Parts behind one another that are planned together: in order, shuffled, or one picture for all but the first.
BLOCK = 8
_SHUFFLED, _FROZEN = 0.15, 0.03
#: Longest a part's detector may take, in milliseconds, and how long one that oversleeps takes.
DEADLINE_MS = 400
_OVERSLEEP_CS = 65
_SLOW_CS = 2
#: Parts for each fault that ends the worker's process: its restart costs seconds, so there are few.
_PARTS_PER_ENDING = 5000


class Kind(StrEnum):
    """What is wrong with a part, or that nothing is. A kind that is no fault of the detector's is the camera's."""

    GOOD = "good"
    BAD = "bad"
    SLOW = "slow"
    """A good part whose detector takes its time, and keeps the deadline."""
    BLACK = "black"
    SATURATED = "saturated"
    FLAT = "flat"
    FROZEN = "frozen"
    """The picture of the part before it once more."""
    FAULT = "fault"
    """The detector does what ``Planned.fault`` says."""


_SOUND = {Kind.GOOD, Kind.BAD, Kind.SLOW}
_CAMERA_FAULTS = (Kind.BLACK, Kind.SATURATED, Kind.FLAT)
#: Faults over one frame, with how often each comes among them.
_PASSING = {
    Fault.RAISE: 1.0,
    Fault.ODD_TEXT: 1.0,
    Fault.NAN_SCORE: 1.0,
    Fault.NAN_MAP: 1.0,
    Fault.MAP_SHAPE: 1.0,
    Fault.SCORE_SHAPE: 1.0,
    Fault.NO_PAIR: 1.0,
    Fault.ZERO_MAP: 1.0,
    Fault.FLAT_MAP: 1.0,
    Fault.MEMORY: 0.3,
    Fault.SLEEP: 0.2,
}
#: Faults after which the worker's process is gone, at once or after a few frames more.
_ENDING = (Fault.KILL, Fault.HANG, Fault.DIE_OUT, Fault.POISON, Fault.EXIT)
_FAULTED, _CAMERA_FAULTED, _BAD, _SLOW = 0.04, 0.015, 0.2, 0.005
#: Share of the parts whose triggers come ahead of their frames.
_ANNOUNCED = 0.12


class Coming(StrEnum):
    """How a frame comes whose trigger is raised ahead of it."""

    AFTER = "after"
    BEFORE = "before"
    """It overtakes its trigger."""
    TWICE = "twice"
    LATE = "late"
    """After the deadline of its trigger."""
    NEVER = "never"


#: How often each comes among them.
_COMING = {Coming.AFTER: 0.5, Coming.BEFORE: 0.15, Coming.TWICE: 0.15, Coming.LATE: 0.1, Coming.NEVER: 0.1}


@dataclass(frozen=True, slots=True)
class Planned:
    """One part. ``number`` is its trigger id; ``picture`` the number of the part whose picture it shows.

    ``coming``: how its frame comes where the trigger is raised ahead; None: the frame is its own trigger.
    """

    number: int
    kind: Kind
    picture: int
    fault: Fault | None = None
    coming: Coming | None = None

    @property
    def sound(self) -> bool:
        """Whether the station may decide it."""
        return self.kind in _SOUND

    @property
    def label(self) -> str:
        """The word of its fault, or its kind's."""
        return self.kind.value if self.fault is None or self.sound else self.fault.name.lower()


class Blow(StrEnum):
    """What is done to the station and to those who listen to it."""

    KILL_HOST = "kill host"
    KILL_WORKER = "kill worker"
    FREEZE_DURABLE = "freeze durable"
    VANISH_DURABLE = "vanish durable"
    FREEZE_LIVE = "freeze live"
    VANISH_LIVE = "vanish live"
    SWAP = "swap"
    """Activate the other template and have the running host take it."""


@dataclass(frozen=True, slots=True)
class PlannedBlow:
    """A blow once so many parts have been answered; ``seconds``: how long it lasts."""

    answered: int
    blow: Blow
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The script of a run: ``parts`` by number, ``order`` in which the camera sends them, ``blows`` in their order."""

    seed: int
    parts: tuple[Planned, ...]
    order: tuple[int, ...]
    blows: tuple[PlannedBlow, ...] = field(repr=False)

    def image(self, number: int) -> np.ndarray:
        """Return what the camera shows of a part: uint8 [32, 48], as often as it is asked for the same."""
        part = self.parts[number]
        if part.kind in _CAMERA_FAULTS:
            return _nothing_to_see(part.kind)
        shown = self.parts[part.picture]
        low, high = (90, 240) if shown.kind is Kind.BAD else (20, 200)
        image = np.random.default_rng((self.seed, shown.number)).integers(low, high, SHAPE, dtype=np.uint8)
        if shown.fault is None:
            return image
        seconds = {Kind.SLOW: _SLOW_CS, Kind.FAULT: _OVERSLEEP_CS}[shown.kind]
        return marked(image, shown.fault, seconds)


def draw_plan(seed: int, triggers: int, kills: int) -> Plan:
    """Return the script of a seed: the same one every time. ``kills``: of the host."""
    rng = np.random.default_rng(seed)
    parts: list[Planned] = []
    order: list[int] = []
    endings = _endings(rng, triggers)
    while len(parts) < triggers:
        first, size = len(parts), min(BLOCK, triggers - len(parts))
        numbers, chance = list(range(first, first + size)), rng.random()
        if chance < _FROZEN:
            parts.append(Planned(first, Kind.GOOD, first))
            parts += [Planned(number, Kind.FROZEN, first) for number in numbers[1:]]
        else:
            parts += [_part(rng, number, endings) for number in numbers]
        if _FROZEN <= chance < _FROZEN + _SHUFFLED:
            rng.shuffle(numbers)
        order += numbers
    blows = tuple(_blows(rng, triggers, kills))
    return Plan(seed, tuple(_announced(np.random.default_rng((seed, 2)), parts)), tuple(order), blows)


def _part(rng: np.random.Generator, number: int, endings: dict[int, Fault]) -> Planned:
    chance = rng.random()
    if number in endings:
        return Planned(number, Kind.FAULT, number, endings[number])
    if chance < _FAULTED:
        faults, weights = list(_PASSING), np.array(list(_PASSING.values()))
        return Planned(number, Kind.FAULT, number, Fault(rng.choice(faults, p=weights / weights.sum())))
    if chance < _FAULTED + _CAMERA_FAULTED:
        return Planned(number, _CAMERA_FAULTS[rng.integers(len(_CAMERA_FAULTS))], number)
    if chance < _FAULTED + _CAMERA_FAULTED + _SLOW:
        return Planned(number, Kind.SLOW, number, Fault.SLEEP)
    bad = chance < _FAULTED + _CAMERA_FAULTED + _SLOW + _BAD
    return Planned(number, Kind.BAD if bad else Kind.GOOD, number)


def _announced(rng: np.random.Generator, parts: list[Planned]) -> Iterator[Planned]:
    """Have some triggers come ahead: of parts that keep their worker alive and show a picture of their own."""
    shown_again = {part.picture for part in parts if part.kind is Kind.FROZEN}
    for part in parts:
        may_be = part.picture not in shown_again and part.fault not in _ENDING
        if may_be and rng.random() < _ANNOUNCED:
            yield replace(part, coming=Coming(rng.choice(list(_COMING), p=list(_COMING.values()))))
        else:
            yield part


def _endings(rng: np.random.Generator, triggers: int) -> dict[int, Fault]:
    """Spread the faults that end a worker: each at least once in a run that is long enough."""
    count = max(1, round(triggers / _PARTS_PER_ENDING * len(_ENDING) / 2))
    faults = [_ENDING[index % len(_ENDING)] for index in range(count)]
    places = ((np.arange(count) + rng.uniform(0.2, 0.8, count)) / count * triggers).astype(int)
    return {int(place): fault for place, fault in zip(places, faults, strict=True)}


def _blows(rng: np.random.Generator, triggers: int, kills: int) -> Iterator[PlannedBlow]:
    """Spread the blows; two of the host's deaths fall into times in which the durable subscriber hears nothing."""
    found = []
    for number in range(kills):
        at = (number + rng.uniform(0.3, 0.7)) / kills
        found.append((at, Blow.KILL_HOST, rng.uniform(0.0, 0.3)))
        if number == 0:
            found.append((max(0.01, at - 0.02), Blow.FREEZE_DURABLE, 3.0))
        if number == 1:
            found.append((max(0.02, at - 0.02), Blow.VANISH_DURABLE, 3.0))
    others = [each for each in Blow if each is not Blow.KILL_HOST]
    rounds = max(1, triggers // 10_000)
    found += [(rng.uniform(0.05, 0.9), blow, rng.uniform(0.5, 2.0)) for blow in others * rounds]
    for at, blow, seconds in sorted(found):
        yield PlannedBlow(int(at * triggers), blow, seconds)


def _nothing_to_see(kind: Kind) -> np.ndarray:
    level = {Kind.BLACK: 2, Kind.SATURATED: 254, Kind.FLAT: 120}[kind]
    image = np.full(SHAPE, level, np.uint8)
    image[::7, ::5] += np.uint8(1)  # a sensor's noise, far below what a part would show
    return image
