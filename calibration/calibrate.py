"""References in, template out: the detector learns, held-out scores set the thresholds, golden frames keep the answer.

Thresholds come from good parts only (``calibration.threshold``: split-conformal order statistic). The held-out scores
are leave-one-out where the detector can leave a reference out of its bank, else the scores of every fifth reference (or
fewer, when more are not wanted), which the template then does not contain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from calibration.held_out import EXAMPLES as EXAMPLES
from calibration.held_out import HeldOut, choose_thresholds, leave_one_out, split, spread
from calibration.held_out import Progress as Progress
from calibration.materials import Materials
from calibration.references import References
from runtime.detector import Detector, DetectorContext, TemplateContent
from runtime.engines.engine import Engine, use_threads
from runtime.errors import ConfigError
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Reference, Thresholds
from runtime.store.template import GoldenFrame, Template

#: Held-out frames by default: 99 suffice to promise 1 % false rejects, but then the cut is the largest score of all;
#: with 300 it is the third largest, and one odd part no longer decides it.
HELD_OUT = 300
FALSE_REJECT = 0.01
#: Golden frames: so many references as they are, and again with planted damage, so that both verdicts are kept.
GOLDEN = 3


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How to calibrate.

    ``false_reject``: target share of good parts rejected, 0..1. ``held_out``: most frames scored for it. ``device``,
    ``threads`` and ``seed`` as in ``Engine`` and ``DetectorContext``. ``materials``: for detectors that train.
    """

    false_reject: float = FALSE_REJECT
    held_out: int = HELD_OUT
    device: str = "cpu"
    threads: int = 0
    seed: int = 0
    materials: Materials = field(default_factory=Materials)


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
        return damaged_half(self.golden)


def damaged_half(golden: Sequence[GoldenFrame]) -> tuple[GoldenFrame, ...]:
    """Return the golden frames with planted damage: the second half, in the order of the good ones."""
    return tuple(golden[len(golden) // 2 :])


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
    materials = options.materials
    context = DetectorContext(
        device=options.device, seed=options.seed, progress=progress, checkpoint=materials.checkpoint,
        textures=materials.textures, defects=materials.defects, budget_s=materials.budget_s,
    )  # fmt: skip
    return detector.calibrate(references, settings, context)


def calibrate(
    detector: Detector, references: References, settings: BaseModel, options: CalibrationOptions, progress: Progress
) -> Calibration:
    """Learn, score held-out frames, set thresholds, keep golden frames."""
    engine = held_out = None
    # Only a detector that overrides leave_out learns from every frame: the others would learn twice, perhaps for hours.
    if type(detector).leave_out is not Detector.leave_out:
        engine = _engine(detector, references, settings, options, progress)
        held_out = leave_one_out(engine, references, options.held_out, progress)
    if engine is None or held_out is None:
        held = _held_back(len(references), options.held_out)
        if engine is None or held:
            engine = _engine(detector, references.without(held), settings, options, progress)
        held_out = split(engine, references.only(held), progress)
        references = references.without(held)
    golden = _golden(engine, references)
    thresholds = choose_thresholds(held_out, options.false_reject)
    return Calibration(engine.content, thresholds, held_out, golden, references)


def _engine(
    detector: Detector, references: References, settings: BaseModel, options: CalibrationOptions, progress: Progress
) -> Engine:
    content = learn(detector, references, settings, options, progress)
    return Engine(detector, content, device=options.device, threads=options.threads)


def save(
    calibration: Calibration, store: Store, *, product: str, detector: DetectorIdentity, who: str, why: str
) -> Template:
    """Put the calibration into the store as a template; activates nothing."""
    return put_content(
        calibration.content,
        store,
        product=product,
        detector=detector,
        thresholds=calibration.thresholds,
        golden=calibration.golden,
        held_out_scores=calibration.held_out.scores,
        references=[Reference(name=name, sha256=sha256) for name, sha256 in calibration.references.digests],
        who=who,
        why=why,
    )


def put_content(
    content: TemplateContent,
    store: Store,
    *,
    product: str,
    detector: DetectorIdentity,
    thresholds: Thresholds,
    golden: Sequence[GoldenFrame],
    held_out_scores: Sequence[float],
    references: Sequence[Reference],
    who: str,
    why: str,
    parent: str | None = None,
) -> Template:
    """Put what a detector learnt into the store as a template, pool included; activates nothing."""
    return store.put_template(
        product=product,
        detector=detector,
        settings=content.settings,
        bank=content.tensors,
        capacity=content.capacity,
        valid=content.valid,
        map_shape=content.map_shape,
        thresholds=thresholds,
        golden=golden,
        held_out_scores=held_out_scores,
        references=references,
        weights=content.weights,
        statistics=content.statistics,
        parent=parent,
        pool=content.pool,
        who=who,
        why=why,
    )


def _held_back(count: int, most: int) -> list[int]:
    """Return which of ``count`` references to hold back: every fifth, or fewer, so that at most ``most`` are scored."""
    if count < 2 or most < 1:  # noqa: PLR2004 - the bank must keep one
        return []
    return list(range(0, count, max(5, math.ceil(count / most))))


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
