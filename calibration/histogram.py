"""The held-out scores as a drawing: one SVG element, no script, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 904, 260
#: Room for the texts around the bars, in px of the drawing.
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 24, 44, 30
_FLOOR = HEIGHT - _BOTTOM
#: Most bars; fewer where there are few scores, so that a bar is seldom empty.
_BARS = 30
#: Damage farther out than so many times the scale of good parts is an arrow at the edge: bars must stay readable.
_FARTHEST = 4.0


@dataclass(frozen=True)
class _Scale:
    """The x axis: scores ``low`` to ``high`` over the width of the drawing."""

    low: float
    high: float

    def px(self, score: float) -> float:
        share = (min(score, self.high) - self.low) / (self.high - self.low)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def histogram(scores: Sequence[float], threshold: float | None, damaged: Sequence[float]) -> str:
    """Draw held-out image scores [n] as bars, the threshold as a line, scores of damaged frames as triangles.

    Values are finite and in units of the image score; ``scores`` is not empty. Returns one ``<svg>`` element of
    ``WIDTH`` x ``HEIGHT`` px whose classes (bar, axis, cut, damage) the page colours.
    """
    scale = _scale(scores, threshold, damaged)
    parts = [*_axis(scale), *_bars(scores, scale), *_marks(damaged, scale)]
    if threshold is not None:
        at = scale.px(threshold)
        anchor = "end" if at > WIDTH / 2 else "start"
        parts += [
            f'<line class="cut" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 12}" y2="{_FLOOR}"/>',
            f'<text class="cut" x="{at:.1f}" y="{_TOP - 18}" text-anchor="{anchor}">threshold {threshold:.4g}</text>',
        ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Histogram of held-out image scores">'
        f"{''.join(parts)}</svg>"
    )


def _scale(scores: Sequence[float], threshold: float | None, damaged: Sequence[float]) -> _Scale:
    known = [*scores, *([] if threshold is None else [threshold])]
    low = min(0.0, *known, *damaged)
    reach = (max(known) - low) or 1.0  # every score 0 still needs an axis
    near = [score - low for score in damaged if score - low <= _FARTHEST * reach]
    # Room on the right for the words beside the arrows.
    room = 1.05 if len(near) == len(damaged) else 1.25
    return _Scale(low, low + room * max(reach, *near, 0.0))


def _axis(scale: _Scale) -> Iterator[str]:
    yield f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_FLOOR}" y2="{_FLOOR}"/>'
    span = scale.high - scale.low
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 8)  # noqa: PLR2004 - ticks that fit
    for number in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1):
        at = scale.px(number * step)
        yield f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{_FLOOR}" y2="{_FLOOR + 5}"/>'
        yield f'<text x="{at:.1f}" y="{_FLOOR + 20}" text-anchor="middle">{number * step:.4g}</text>'


def _bars(scores: Sequence[float], scale: _Scale) -> Iterator[str]:
    bars = int(np.clip(2 * math.sqrt(len(scores)), 4, _BARS))
    # One score, or all equal, is a bar a little wide around it.
    margin = 0.0 if max(scores) > min(scores) else (scale.high - scale.low) / 100
    counts, edges = np.histogram(scores, bins=bars, range=(min(scores) - margin, max(scores) + margin))
    tallest = int(counts.max())
    yield f'<text x="{_LEFT - 8}" y="{_TOP + 4}" text-anchor="end">{tallest}</text>'
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        height = (_FLOOR - _TOP) * count / tallest
        width = max(scale.px(right) - scale.px(left) - 1, 1.5)
        yield (
            f'<rect class="bar" x="{scale.px(left):.1f}" y="{_FLOOR - height:.1f}" '
            f'width="{width:.1f}" height="{height:.1f}"><title>{count} frames, {left:.4g} to {right:.4g}</title></rect>'
        )


def _marks(damaged: Sequence[float], scale: _Scale) -> Iterator[str]:
    for score in damaged:
        at = scale.px(score)
        tip = f"{at + 9:.1f},{_FLOOR - 9} {at - 5:.1f},{_FLOOR - 17} {at - 5:.1f},{_FLOOR - 1}"
        if score <= scale.high:
            tip = f"{at:.1f},{_FLOOR} {at - 7:.1f},{_FLOOR - 15} {at + 7:.1f},{_FLOOR - 15}"
        yield f'<polygon class="damage" points="{tip}"><title>planted damage, score {score:.4g}</title></polygon>'
    far = sorted(score for score in damaged if score > scale.high)
    if far:
        words = " and ".join(dict.fromkeys((f"{far[0]:.3g}", f"{far[-1]:.3g}")))
        yield f'<text class="damage" x="{WIDTH - 4}" y="{_FLOOR - 28}" text-anchor="end">damage at {words}</text>'
