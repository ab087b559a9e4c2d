"""Cutting OPTICS reachability plots into clusters by relative steepness, xi = 0.05 (specification, section 11.1).

Along the processing order a cluster is a dent: reachability falls steeply into it and rises steeply out of it. Steep
means by at least 5 % from one point to the next. Every pixel of a layer has a plot of its own; what can be done for all
plots at once is done in NumPy, the walk along one plot on plain lists, which at a few hundred points is faster.

r[N] = infinity closes every plot and r[0] = infinity opens it, so the whole plot is always a dent: there is at least
one cluster, and a plot is never all noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Label of points in no cluster.
NOISE = -1
#: What a steep step leaves of the larger side, at most.
_LEFT = 1 - 0.05
#: How reachability goes on from a point to the next one. The sign is the direction.
_STEEP_DOWN, _DOWN, _LEVEL, _UP, _STEEP_UP = 2, 1, 0, -1, -2


@dataclass
class _Descent:
    """A steep way down, first to last position, and the highest reachability met since."""

    first: int
    last: int
    met: float = 0.0


def extract(reach: NDArray[np.float64], predecessor: NDArray[np.integer], min_samples: int) -> NDArray[np.int32]:
    """Return the cluster label of each point in processing order, int32 [P, N]; -1 = noise.

    ``reach``: float64 [P, N], one plot a row: reachabilities (cosine distances, 0..2) in processing order, the first
    one infinite. ``predecessor``: integer [P, N], the position in that order of the point each point was reached from
    (position 0 has none; any value). ``min_samples``: smallest cluster, and the longest pause within a steep way. Equal
    to scikit-learn's labels (1.4 and later, where predecessors are looked up right) for the same plots.
    """
    closed = np.concatenate([reach, np.full((len(reach), 1), np.inf)], axis=1)
    steps = _steps(closed)
    labels = np.full(reach.shape, NOISE, np.int32)
    # Rows become lists: reading one number out of an array takes ten times as long.
    plots = zip(closed.tolist(), steps.tolist(), predecessor.tolist(), labels, strict=True)
    for plot, ways, reached_from, row in plots:
        label = 0
        for first, last in _dents(plot, ways, reached_from, min_samples):
            if (row[first : last + 1] == NOISE).all():
                row[first : last + 1] = label
                label += 1
    return labels


def _steps(closed: NDArray[np.float64]) -> NDArray[np.int8]:
    """Classify the step behind every point: [P, N + 1] -> [P, N]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = closed[:, :-1] / closed[:, 1:]  # 0 / 0, between duplicates, is no number, and level
    steps = np.full(ratio.shape, _LEVEL, np.int8)
    for kind, where in (
        (_DOWN, ratio > 1),
        (_UP, ratio < 1),
        (_STEEP_DOWN, ratio >= 1 / _LEFT),
        (_STEEP_UP, ratio <= _LEFT),
    ):
        steps[where] = kind
    return steps


def _dents(
    plot: Sequence[float], steps: Sequence[int], predecessor: Sequence[int], min_samples: int
) -> list[tuple[int, int]]:
    """Return (first, last) positions of every dent, smaller ones before those around them."""
    found: list[tuple[int, int]] = []
    open_: list[_Descent] = []
    after, met = 0, 0.0  # the position behind the last steep way, and the highest reachability since
    for start, step in enumerate(steps):
        if start < after or -_STEEP_DOWN < step < _STEEP_DOWN:
            continue
        met = max(met, *plot[after : start + 1])
        open_ = [descent for descent in open_ if met <= _LEFT * plot[descent.first]] if met < np.inf else []
        for descent in open_:
            descent.met = max(descent.met, met)
        end = _end_of_way(steps, start, min_samples)
        if step == _STEEP_DOWN:
            open_.append(_Descent(start, end))
        else:
            dents = (_dent(plot, predecessor, descent, start, end) for descent in reversed(open_))
            found += [dent for dent in dents if dent and dent[1] - dent[0] + 1 >= min_samples]
        after, met = end + 1, plot[end + 1]
    return found


def _end_of_way(steps: Sequence[int], start: int, min_samples: int) -> int:
    """Return the last steep position of the way that starts at ``start``: no turn, and no pause too long, before it."""
    kind = steps[start]
    end, pause = start, 0
    for position in range(start, len(steps)):
        step = steps[position]
        if step == kind:
            end, pause = position, 0
        elif step * kind < 0:
            break
        else:
            pause += 1
            if pause > min_samples:
                break
    return end


def _dent(
    plot: Sequence[float], predecessor: Sequence[int], descent: _Descent, rise: int, end: int
) -> tuple[int, int] | None:
    """Return (first, last) of the dent between a descent and the rise ``rise``..``end``; None where there is none."""
    edge, top = plot[end + 1], plot[descent.first]
    if _LEFT * edge < descent.met:
        return None  # something in between is as high as the far edge
    first, last = descent.first, end
    # Cut the higher side down to the level of the lower one.
    if _LEFT * top >= edge:
        while first < descent.last and plot[first + 1] > edge:
            first += 1
    elif _LEFT * edge >= top:
        while last > rise and plot[last - 1] > top:
            last -= 1
    # A last point that was reached from outside the dent does not belong to it.
    while first < last and plot[first] <= plot[last] and predecessor[last] < first:
        last -= 1
    return (first, last) if first < last and last >= rise else None
