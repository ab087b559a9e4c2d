"""The parity gate's law: answers to golden frames must be those they had when their template was calibrated.

Pure: what was answered, by which backend and in which process, is the caller's business. ``runtime.engines.selftest``
asks for a worker about to inspect; a compiled engine is asked in the same way before it may stand in for the eager one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from runtime.detector import DetectorResult
    from runtime.store.template import GoldenFrame


@dataclass(frozen=True, slots=True)
class Limits:
    """What may differ: a value by ``relative`` of itself + ``of_scale`` of the scale + ``absolute``.

    The scale is one number for all golden frames: of maps, their largest value; of scores, the largest score or the
    image threshold. ``correlation``: least Pearson correlation of two maps, None where the limit on every single value
    says more.
    """

    relative: float = 0.0
    of_scale: float = 0.0
    absolute: float = 0.0
    correlation: float | None = None


#: Precision of the backend that answers -> what may differ from the eager fp32 answers a template keeps.
#: fp32: rounding on another processor is far below it, another detector, setting or weight file far above.
#: The others: hetmm on the simulated product, whole graph under CPU autocast, was off by up to 0.2 % of the scale in
#: fp16 (correlation 1.0000), and in bf16 by 4 to 8 % (0.992 to 0.999): that is as much as should ever pass unseen.
#: tf32 has fp16's mantissa. int8 is held to bf16's limits: cpr-faster, untrained, was off by 2.5 % (0.9999).
LIMITS: dict[str, Limits] = {
    "fp32": Limits(relative=1e-3, absolute=1e-4),
    "tf32": Limits(of_scale=0.01, correlation=0.999),
    "fp16": Limits(of_scale=0.01, correlation=0.999),
    "bf16": Limits(of_scale=0.05, correlation=0.99),
    "int8": Limits(of_scale=0.05, correlation=0.99),
}


@dataclass(frozen=True, slots=True)
class FrameParity:
    """One golden frame, answered again. Differences are absolute; ``*_limit`` is what was allowed at the worst place.

    ``correlation``: of the two maps, None where the golden one varies less than what may differ (a good part's map is
    all but flat, and noise correlates with nothing). ``flipped``: the verdict is another one. ``failed``: the words of
    what is beyond its limit: score, map, correlation, verdict.
    """

    index: int
    score: float
    golden_score: float
    score_limit: float
    map_difference: float
    map_limit: float
    correlation: float | None
    flipped: bool
    failed: tuple[str, ...]

    @property
    def strain(self) -> float:
        """Largest difference in limits: 1 is just allowed; infinite for a flipped verdict or what is no number."""
        ratios = (
            abs(self.score - self.golden_score) / self.score_limit,
            self.map_difference / self.map_limit,
        )
        bad = self.flipped or not all(map(math.isfinite, ratios))
        return math.inf if bad else max(ratios)

    @property
    def sentence(self) -> str:
        """The figures in one clause, without the frame's number."""
        flip = ", verdict flips" if self.flipped else ""
        alike = "" if self.correlation is None else f", maps correlate {self.correlation:.4f}"
        return (
            f"expected score {self.golden_score:.6g}, found {self.score:.6g}{flip}; "
            f"the map differs by up to {self.map_difference:.3g} where {self.map_limit:.3g} is allowed{alike}"
        )


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """Every golden frame with its figures."""

    frames: tuple[FrameParity, ...]
    precision: str

    @property
    def failed(self) -> tuple[FrameParity, ...]:
        """The frames that are beyond a limit, in order."""
        return tuple(frame for frame in self.frames if frame.failed)

    @property
    def passed(self) -> bool:
        """Whether every frame is within its limits. Without golden frames there is nothing to fail."""
        return not self.failed

    @property
    def worst(self) -> FrameParity | None:
        """The frame nearest to its limits or furthest beyond them; None without frames."""
        return max(self.frames, key=lambda frame: (bool(frame.failed), frame.strain), default=None)

    def sentence(self) -> str:
        """Name every frame that failed, then the figures of the worst, then of the others.

        In this order because a record may cut it: the numbers of the frames are at its beginning.
        """
        failed, worst = self.failed, self.worst
        if worst is None or not failed:
            strain = "none to compare" if worst is None else f"at most {worst.strain:.2g} of what is allowed differs"
            return f"{len(self.frames)} golden frames agree ({self.precision}): {strain}"
        named = ", ".join(str(frame.index) for frame in failed)
        noun = "golden frame" if len(failed) == 1 else "golden frames"
        figures = [worst, *(frame for frame in failed if frame is not worst)]
        listed = "; ".join(f"frame {frame.index}: {frame.sentence}" for frame in figures)
        return f"{noun} {named} of {len(self.frames)} failed ({self.precision}); {listed}"

    def as_json(self) -> dict[str, Any]:
        """Return what a record of the worker carries: counts, the frames that failed, the worst one's figures."""
        worst = self.worst
        return {
            "precision": self.precision,
            "frames": len(self.frames),
            "failed": [frame.index for frame in self.failed],
            "verdict_flips": sum(frame.flipped for frame in self.frames),
            "worst_frame": None if worst is None else worst.index,
            "score_difference": _largest(abs(frame.score - frame.golden_score) for frame in self.frames),
            "map_difference": _largest(frame.map_difference for frame in self.frames),
            "least_correlation": min((f.correlation for f in self.frames if f.correlation is not None), default=None),
        }


@dataclass(frozen=True, slots=True)
class Law:
    """What holds for every golden frame of one template: limits, scales, image threshold (None: no verdicts)."""

    precision: str
    limits: Limits
    score_scale: float
    map_scale: float
    threshold: float | None


def law_of(expected: Sequence[GoldenFrame], threshold: float | None, precision: str = "fp32") -> Law:
    """Return the law for a template's golden frames: all of them, because they give the scales.

    ``threshold``: the template's image threshold. ``precision``: a key of ``LIMITS``; ``ValueError`` for another.
    """
    if precision not in LIMITS:
        raise ValueError(f"expected a precision of {', '.join(LIMITS)}, found {precision!r}")
    map_scale = max((float(np.abs(golden.anomaly_map).max()) for golden in expected), default=0.0)
    scores = [abs(golden.score) for golden in expected] + ([] if threshold is None else [abs(threshold)])
    return Law(precision, LIMITS[precision], max(scores, default=0.0), map_scale, threshold)


def compare_golden(
    expected: Sequence[GoldenFrame], found: Sequence[DetectorResult], threshold: float | None, precision: str = "fp32"
) -> GoldenReport:
    """Compare a backend's answers to a template's golden frames with those it keeps, frame by frame.

    ``found``: one result a golden frame, in their order; maps float32 [h, w] of the golden maps' shape. ``threshold``:
    the template's image threshold; a verdict that differs under it fails whatever the precision, None: there are no
    verdicts. ``precision``: a key of ``LIMITS``, of the backend that answered. Raises ``ValueError`` for another
    number or shape of answers, or an unknown precision: the caller's mistake, not the backend's.
    """
    return compare_under(law_of(expected, threshold, precision), expected, found)


def compare_under(law: Law, expected: Sequence[GoldenFrame], found: Sequence[DetectorResult]) -> GoldenReport:
    """Compare as ``compare_golden`` does, some golden frames only, under the law of all."""
    if len(expected) != len(found):
        raise ValueError(f"expected {len(expected)} answers, one a golden frame, found {len(found)}")
    pairs = enumerate(zip(expected, found, strict=True))
    frames = tuple(_compare(index, golden, result, law) for index, (golden, result) in pairs)
    return GoldenReport(frames, law.precision)


def _compare(index: int, golden: GoldenFrame, result: DetectorResult, law: Law) -> FrameParity:
    limits, threshold = law.limits, law.threshold
    if golden.anomaly_map.shape != result.anomaly_map.shape:
        raise ValueError(
            f"golden frame {index}: expected a map of shape {golden.anomaly_map.shape}, "
            f"found {result.anomaly_map.shape}"
        )
    score_limit = limits.relative * abs(golden.score) + limits.of_scale * law.score_scale + limits.absolute
    allowed = limits.relative * np.abs(golden.anomaly_map, dtype=np.float64) + (
        limits.of_scale * law.map_scale + limits.absolute
    )
    difference = np.abs(result.anomaly_map.astype(np.float64) - golden.anomaly_map)
    place = np.unravel_index(int(np.argmax(difference / np.maximum(allowed, _TINY))), difference.shape)
    noise = float(allowed.min())
    correlation = _correlation(golden.anomaly_map, result.anomaly_map, noise) if limits.correlation else None
    flipped = threshold is not None and (result.score > threshold) != (golden.score > threshold)
    # "not within" rather than "beyond": of a NaN only the first is true.
    checks = {
        "score": not abs(result.score - golden.score) <= score_limit,
        "map": not bool((difference <= allowed).all()),
        "correlation": correlation is not None and not correlation >= (limits.correlation or 0.0),
        "verdict": flipped,
    }
    return FrameParity(
        index=index,
        score=result.score,
        golden_score=golden.score,
        score_limit=max(score_limit, _TINY),
        map_difference=float(difference[place]),
        map_limit=max(float(allowed[place]), _TINY),
        correlation=correlation,
        flipped=flipped,
        failed=tuple(word for word, is_beyond in checks.items() if is_beyond),
    )


def _correlation(golden: np.ndarray, found: np.ndarray, noise: float) -> float | None:
    """Return Pearson's correlation of two maps; None if the golden one varies less than ``noise``.

    A map without any variation correlates with nothing: 0.
    """
    a, b = (each.astype(np.float64).ravel() - each.mean(dtype=np.float64) for each in (golden, found))
    if float(a.std()) <= noise:
        return None
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else 0.0


def _largest(differences: Iterable[float]) -> float | None:
    """Return the largest difference; None, which JSON knows, if one is no number."""
    found = max(differences, default=0.0, key=lambda each: math.inf if math.isnan(each) else each)
    return found if math.isfinite(found) else None


#: Keeps a limit of zero (a scale of zero: maps of zeros) from dividing.
_TINY = 1e-30
