"""References in, template out: the detector learns, held-out scores set the thresholds, golden frames keep the answer.

Thresholds come from good parts only (``calibration.threshold``: split-conformal order statistic). The held-out scores
are leave-one-out where the detector can leave a reference out of its bank, else the scores of every fifth reference (or
fewer, when more are not wanted), which the template then does not contain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from calibration.references import References
from calibration.threshold import conformal_threshold
from runtime.detector import Detector, DetectorContext, DetectorResult, TemplateContent
from runtime.engine import Engine, use_threads
from runtime.errors import ConfigError
from runtime.manifest import DetectorIdentity, Reference, Thresholds
from runtime.store import Store
from runtime.template import GoldenFrame, Template

Progress = Callable[[int, int, str], None]

#: Held-out frames by default: 99 suffice to promise 1 % false rejects, but then the cut is the largest score of all;
#: with 300 it is the third largest, and one odd part no longer decides it.
HELD_OUT = 300
FALSE_REJECT = 0.01
#: Golden frames: so many references as they are, and again with planted damage, so that both verdicts are kept.
GOLDEN = 3
#: Held-out frames whose maps are kept for the report: those with the highest scores, where the threshold was decided.
#: All of them, at 300 frames of 1024 x 1024 px, would be 1.2 GB.
EXAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How to calibrate.

    ``false_reject``: target share of good parts rejected, 0..1. ``held_out``: most frames scored for it. ``device``,
    ``threads`` and ``seed`` as in ``Engine`` and ``DetectorContext``.
    """

    false_reject: float = FALSE_REJECT
    held_out: int = HELD_OUT
    device: str = "cpu"
    threads: int = 0
    seed: int = 0


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


@dataclass(frozen=True)
class Calibration:
    """Everything a template is made of, before it is stored."""

    content: TemplateContent
    thresholds: Thresholds
    held_out: HeldOut
    golden: tuple[GoldenFrame, ...]
    references: References

    @property
    def damaged(self) -> tuple[GoldenFrame, ...]:
        """The golden frames with planted damage: the second half."""
        return self.golden[len(self.golden) // 2 :]


def resolve_settings(detector: Detector, given: dict[str, Any]) -> BaseModel:
    """Return the detector's settings with ``given`` applied; ``ConfigError`` names every key that does not fit."""
    try:
        return detector.settings_model.model_validate(given)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'settings'}: {f['msg']}" for f in error.errors())
        known = ", ".join(detector.settings_model.model_fields)
        raise ConfigError(f"{detector.name} settings: {faults} (settings are: {known})") from error


def learn(
    detector: Detector, references: References, settings: BaseModel, options: CalibrationOptions, progress: Progress
) -> TemplateContent:
    """Let the detector learn from all ``references``."""
    use_threads(options.threads)
    context = DetectorContext(device=options.device, seed=options.seed, progress=progress)
    return detector.calibrate(references, settings, context)


def calibrate(
    detector: Detector, references: References, settings: BaseModel, options: CalibrationOptions, progress: Progress
) -> Calibration:
    """Learn, score held-out frames, set thresholds, keep golden frames."""
    engine = held_out = None
    # Only a detector that overrides leave_out learns from every frame: the others would learn twice, perhaps for hours.
    if type(detector).leave_out is not Detector.leave_out:
        engine = _engine(detector, references, settings, options, progress)
        held_out = _leave_one_out(engine, references, options, progress)
    if engine is None or held_out is None:
        held = _held_back(len(references), options.held_out)
        if engine is None or held:
            engine = _engine(detector, references.without(held), settings, options, progress)
        held_out = _split(engine, references.only(held), progress)
        references = references.without(held)
    golden = _golden(engine, references)
    return Calibration(engine.content, _thresholds(held_out, options), held_out, golden, references)


def _engine(
    detector: Detector, references: References, settings: BaseModel, options: CalibrationOptions, progress: Progress
) -> Engine:
    content = learn(detector, references, settings, options, progress)
    return Engine(detector, content, device=options.device, threads=options.threads)


def save(
    calibration: Calibration, store: Store, *, product: str, detector: DetectorIdentity, who: str, why: str
) -> Template:
    """Put the calibration into the store as a template; activates nothing."""
    content = calibration.content
    return store.put_template(
        product=product,
        detector=detector,
        settings=content.settings,
        bank=content.tensors,
        capacity=content.capacity,
        valid=content.valid,
        map_shape=content.map_shape,
        thresholds=calibration.thresholds,
        golden=calibration.golden,
        held_out_scores=calibration.held_out.scores,
        references=[Reference(name=name, sha256=sha256) for name, sha256 in calibration.references.digests],
        weights=content.weights,
        statistics=content.statistics,
        who=who,
        why=why,
    )


def _leave_one_out(
    engine: Engine, references: References, options: CalibrationOptions, progress: Progress
) -> HeldOut | None:
    """Score references against the bank without themselves; None if the detector, or a single one, forbids it."""
    indices = spread(len(references), options.held_out)
    frames = references.only(indices)
    scored = _Scored()
    for done, index in enumerate(indices):
        rest = engine.detector.leave_out(engine.content, engine.bank, index)
        if rest is None:
            return None
        scored.add(engine.infer(frames[done].image, rest))
        progress(done + 1, len(indices), "scoring held-out frames")
    return scored.held_out(frames, "leave-one-out")


def _held_back(count: int, most: int) -> list[int]:
    """Return which of ``count`` references to hold back: every fifth, or fewer, so that at most ``most`` are scored."""
    if count < 2 or most < 1:  # noqa: PLR2004 - the bank must keep one
        return []
    return list(range(0, count, max(5, math.ceil(count / most))))


def _split(engine: Engine, frames: References, progress: Progress) -> HeldOut:
    scored = _Scored()
    for index in range(len(frames)):
        scored.add(engine.infer(frames[index].image))
        progress(index + 1, len(frames), "scoring held-out frames")
    return scored.held_out(frames, "split")


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


def _thresholds(held_out: HeldOut, options: CalibrationOptions) -> Thresholds:
    """Cut image scores and map peaks at the stated false-reject target; no held-out frame, no threshold."""
    if not held_out.scores:
        return Thresholds(image=None, pixel=None, rule="none", target=options.false_reject, bound=None, held_out=0)
    image = conformal_threshold(held_out.scores, options.false_reject)
    # The same promise for the map: at this cut a good part shows no defect mask at all.
    pixel = conformal_threshold(held_out.peaks, options.false_reject)
    return Thresholds(
        image=image.value,
        pixel=pixel.value,
        rule=f"{image.rule}, {held_out.rule}",
        target=image.target,
        bound=image.bound,
        held_out=image.n,
    )


def _golden(engine: Engine, references: References) -> tuple[GoldenFrame, ...]:
    frames = [references[index].image for index in spread(len(references), GOLDEN)]
    golden = []
    for frame in [*frames, *(plant_damage(frame) for frame in frames)]:
        result = engine.infer(frame)
        golden.append(GoldenFrame(frame, result.anomaly_map, result.score))
    return tuple(golden)


def plant_damage(image: np.ndarray) -> np.ndarray:
    """Return a copy of a uint8 image with an inverted square, an eighth of the shorter side, in its middle."""
    damaged = image.copy()
    height, width = image.shape[:2]
    side = max(1, min(height, width) // 8)
    top, left = (height - side) // 2, (width - side) // 2
    damaged[top : top + side, left : left + side] = 255 - damaged[top : top + side, left : left + side]
    return damaged


def spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices spread evenly over ``count`` items, first and last included."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, most)).round()})
