"""References in, template out: the detector learns, held-out scores set the thresholds, golden frames keep the answer.

Thresholds come from good parts only (``calibration.threshold``: split-conformal order statistic). The held-out scores are
leave-one-out where the detector can leave a reference out of its bank, else the scores of every fifth reference, which the
template then does not contain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from calibration.references import References
from calibration.threshold import conformal_threshold
from runtime.detector import Detector, DetectorContext, TemplateContent
from runtime.engine import Engine
from runtime.errors import ConfigError
from runtime.manifest import DetectorIdentity, Reference, Thresholds
from runtime.store import Store
from runtime.template import GoldenFrame, Template

Progress = Callable[[int, int, str], None]

#: Held-out frames by default: enough to promise 1 % false rejects (99), a little more.
HELD_OUT = 120
FALSE_REJECT = 0.01
#: Golden frames: this many references as they are, and the same again with planted damage, so that both verdicts are kept.
GOLDEN = 3


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How to calibrate. ``false_reject``: target share of good parts rejected, 0..1. ``held_out``: most frames scored for it."""

    false_reject: float = FALSE_REJECT
    held_out: int = HELD_OUT
    device: str = "cpu"
    threads: int = 0
    seed: int = 0


@dataclass(frozen=True)
class HeldOut:
    """Good frames the bank did not contain: per frame its name, image score, largest map value and map (float32 [h, w])."""

    names: tuple[str, ...]
    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    maps: tuple[np.ndarray, ...]
    rule: str


@dataclass(frozen=True)
class Calibration:
    """Everything a template is made of, before it is stored."""

    content: TemplateContent
    thresholds: Thresholds
    held_out: HeldOut
    golden: tuple[GoldenFrame, ...]
    references: References


def resolve_settings(detector: Detector, given: dict[str, Any]) -> BaseModel:
    """Return the detector's settings with ``given`` applied; ``ConfigError`` names every key or value that does not fit."""
    try:
        return detector.settings_model.model_validate(given)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'settings'}: {f['msg']}" for f in error.errors())
        known = ", ".join(detector.settings_model.model_fields)
        raise ConfigError(f"{detector.name} settings: {faults} (settings are: {known})") from error


def learn(detector: Detector, references: References, settings: BaseModel, options: CalibrationOptions, progress: Progress) -> TemplateContent:
    """Let the detector learn from all ``references``."""
    context = DetectorContext(device=options.device, seed=options.seed, progress=progress)
    return detector.calibrate(references, settings, context)


def calibrate(
    detector: Detector, references: References, settings: BaseModel, options: CalibrationOptions, progress: Progress
) -> Calibration:
    """Learn, score held-out frames, set thresholds, keep golden frames."""
    content = learn(detector, references, settings, options, progress)
    engine = Engine(detector, content, device=options.device, threads=options.threads)
    held_out = _leave_one_out(engine, references, options, progress)
    if held_out is None:
        held = range(0, len(references), 5) if len(references) > 1 else range(0)
        content = learn(detector, references.without(held), settings, options, progress) if held else content
        engine = Engine(detector, content, device=options.device, threads=options.threads)
        held_out = _score(engine, [references[index] for index in held], "split", progress)
        references = references.without(held)
    return Calibration(content, _thresholds(held_out, options), held_out, _golden(engine, references), references)


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
    """Score references against the bank without themselves; None if the detector (or a single reference) does not allow it."""
    indices = spread(len(references), options.held_out)
    names, scores, maps = [], [], []
    for done, index in enumerate(indices):
        rest = engine.detector.leave_out(engine.content, engine.bank, index)
        if rest is None:
            return None
        frame = references[index]
        result = engine.infer(frame.image, rest)
        names.append(frame.name)
        scores.append(result.score)
        maps.append(result.anomaly_map)
        progress(done + 1, len(indices), "scoring held-out frames")
    return HeldOut(tuple(names), tuple(scores), tuple(float(each.max()) for each in maps), tuple(maps), "leave-one-out")


def _score(engine: Engine, frames: Sequence[Any], rule: str, progress: Progress) -> HeldOut:
    results = []
    for done, frame in enumerate(frames):
        results.append(engine.infer(frame.image))
        progress(done + 1, len(frames), "scoring held-out frames")
    return HeldOut(
        tuple(frame.name for frame in frames),
        tuple(result.score for result in results),
        tuple(float(result.anomaly_map.max()) for result in results),
        tuple(result.anomaly_map for result in results),
        rule,
    )


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
