"""Held-out scores: good frames scored against a bank that does not contain them, and the cuts they give.

Where the detector can leave a reference out of its bank the references themselves are held out, one at a time; else the
frames held out are frames the bank never had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from calibration.references import References
from calibration.threshold import conformal_threshold
from runtime.detector import DetectorResult
from runtime.engines.engine import Engine
from runtime.store.manifest import Thresholds

Progress = Callable[[int, int, str], None]

#: Held-out frames whose maps are kept for the report: those with the highest scores, where the threshold was decided.
#: All of them, at 300 frames of 1024 x 1024 px, would be 1.2 GB.
EXAMPLES = 4


@dataclass(frozen=True)
class HeldOut:
    """Good frames the bank did not contain.

    Per frame: itself (decoded when asked for), image score and largest map value. ``maps``: index of the frame -> map,
    float32 [h, w], of the ``EXAMPLES`` frames with the highest scores only.
    """

    frames: References
    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    maps: Mapping[int, np.ndarray]
    rule: str

    @property
    def names(self) -> tuple[str, ...]:
        """The frames' names."""
        return tuple(sample.name for sample in self.frames.samples)


def leave_one_out(engine: Engine, references: References, most: int, progress: Progress) -> HeldOut | None:
    """Score at most ``most`` references, spread evenly, against the bank without themselves.

    ``references``: all that are in the bank, in its order. None if the detector, or a single reference, forbids it.
    Where the detector trained on some of them, only the others are scored.
    """
    unseen = engine.detector.unseen(engine.content)
    among = range(len(references)) if unseen is None else unseen
    indices = [among[index] for index in spread(len(among), most)]
    frames = references.only(indices)
    scored = _Scored()
    for done, index in enumerate(indices):
        rest = engine.detector.leave_out(engine.content, engine.bank, index)
        if rest is None:
            return None
        scored.add(engine.infer(frames[done].image, rest))
        progress(done + 1, len(indices), "scoring held-out frames")
    return scored.held_out(frames, "leave-one-out" if unseen is None else "leave-one-out of untrained")


def split(engine: Engine, frames: References, progress: Progress) -> HeldOut:
    """Score good frames that the bank never had."""
    scored = _Scored()
    for index in range(len(frames)):
        scored.add(engine.infer(frames[index].image))
        progress(index + 1, len(frames), "scoring held-out frames")
    return scored.held_out(frames, "split")


def choose_thresholds(held_out: HeldOut, target: float) -> Thresholds:
    """Cut image scores and map peaks at a false-reject target, 0..1; no held-out frame, no threshold."""
    if not held_out.scores:
        return Thresholds(image=None, pixel=None, rule="none", target=target, bound=None, held_out=0)
    image = conformal_threshold(held_out.scores, target)
    # The same promise for the map: at this cut a good part shows no defect mask at all.
    pixel = conformal_threshold(held_out.peaks, target)
    return Thresholds(
        image=image.value,
        pixel=pixel.value,
        rule=f"{image.rule}, {held_out.rule}",
        target=image.target,
        bound=image.bound,
        held_out=image.n,
    )


def shortfalls(thresholds: Thresholds) -> list[str]:
    """Tell what the integrator should know about the thresholds: none at all, or a promise worse than asked for."""
    target, bound = thresholds.target or 0.0, thresholds.bound
    if thresholds.image is None:
        return ["no good part was held out, so there are no thresholds: every verdict will be NotDecidable"]
    if bound is None or bound <= target:
        return []
    promised = f"{thresholds.held_out} held-out good parts promise at most {bound:.1%} false rejects, not {target:.1%}"
    return [f"{promised}: that takes {math.ceil(1 / target) - 1}"]


def spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices spread evenly over ``count`` items, first and last included."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, most)).round()})


class _Scored:
    """The answers to held-out frames as they come; a map that the report will not show is dropped at once."""

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._peaks: list[float] = []
        self._maps: dict[int, np.ndarray] = {}

    def add(self, result: DetectorResult) -> None:
        self._maps[len(self._scores)] = result.anomaly_map
        self._scores.append(result.score)
        self._peaks.append(float(result.anomaly_map.max()))
        if len(self._maps) > EXAMPLES:
            # Of equal scores the report shows the frame that came first.
            del self._maps[min(self._maps, key=lambda index: (self._scores[index], -index))]

    def held_out(self, frames: References, rule: str) -> HeldOut:
        return HeldOut(frames, tuple(self._scores), tuple(self._peaks), self._maps, rule)
