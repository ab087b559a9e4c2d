"""What a detector promises the host, by name, and what the kit found out about each promise. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["pass", "note", "fail", "skip"]


@dataclass(frozen=True)
class Promise:
    """One promise: its name, what the host relies on, where it is checked, and which ones it cannot be checked without.

    ``where`` names a module of this package; the function there is called like the promise.
    """

    name: str
    sentence: str
    where: str
    needs: tuple[str, ...] = ()


#: In the order they are checked: what others need first, what takes long last.
PROMISES = (
    Promise("loads", "the plugin loads without torch and makes the detector", "process"),
    Promise("settings", "every setting has a default, and wrong ones are refused", "learning", ("loads",)),
    Promise("calibrate", "good frames give a whole template", "learning", ("settings",)),
    Promise("digest", "same references, settings and seed: the same template", "learning", ("calibrate",)),
    Promise("answer", "map and score of the promised shape and dtype, finite", "answering", ("calibrate",)),
    Promise("repeat", "a frame has one answer, whatever came before it", "answering", ("answer",)),
    Promise("variety", "maps vary from place to place and from frame to frame", "answering", ("answer",)),
    Promise("grey", "grey frames and grey references are taken", "answering", ("answer",)),
    Promise("sizes", "frames and references of any size are taken", "answering", ("answer",)),
    Promise("plain", "black and white frames have finite answers", "answering", ("answer",)),
    Promise("few", "one reference, or constant ones, are learnt or refused", "learning", ("answer",)),
    Promise("errors", "bad references are refused with an error of the family", "learning", ("calibrate",)),
    Promise("weights", "a template of other weight files is refused", "learning", ("answer",)),
    Promise("leave_out", "a reference can be left out and the bank stays, or it cannot", "lasting", ("answer",)),
    Promise("export", "the graph exports whole, strictly, and answers as eager", "programs", ("repeat",)),
    Promise("lint", "compiled backends take every operation of the graph", "programs", ("export",)),
    Promise("bank", "inserting frames changes the bank, not the program", "programs", ("export",)),
    Promise("store", "a stored template answers its golden frames again", "lasting", ("repeat",)),
    Promise("extend", "new frames are inserted, or refused with a clear error", "lasting", ("store",)),
    Promise("memory", "frame after frame takes no more memory", "lasting", ("answer",)),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one promise of one detector.

    ``state``: pass; note: kept, and there is something to know; fail; skip: not judged. ``detail``: what was found, or
    the cause; ``advice``: what to do about it, empty where there is nothing.
    """

    detector: str
    promise: str
    state: State
    detail: str
    advice: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """Detail and advice in one line."""
        return f"{self.detail}; {self.advice}" if self.advice else self.detail


def kept(outcomes: Iterable[Outcome]) -> bool:
    """Tell whether every promise was judged and kept."""
    states = {each.state for each in outcomes}
    return bool(states) and states <= {"pass", "note"}


class BrokenError(Exception):
    """A promise that is not kept: the cause, and what to do about it."""

    def __init__(self, cause: str, advice: str = "") -> None:
        super().__init__(cause)
        self.cause, self.advice = cause, advice


class NotedError(Exception):
    """A promise that is kept, with something the author should know."""

    def __init__(self, detail: str, advice: str = "") -> None:
        super().__init__(detail)
        self.detail, self.advice = detail, advice
