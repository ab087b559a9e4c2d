"""Where the part is, from grey levels or saturation alone (specification, 8.3): only to place synthetic defects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Smallest and largest share of a frame a part may take, and how much that may vary (standard deviation by mean).
LEAST_AREA, MOST_AREA, MOST_SPREAD = 0.05, 0.95, 0.15
#: Components below this share of the largest one are dirt.
LEAST_COMPONENT = 0.1
#: Parts are grown by so many pixels.
GROWN_PX = 5


@dataclass(frozen=True)
class Foregrounds:
    """``masks`` bool [N, S, S], or None: the whole frame; ``reason`` why; mean ``area`` and its ``spread``, 0..1."""

    masks: np.ndarray | None
    reason: str
    area: float
    spread: float


def find_foregrounds(images: Sequence[np.ndarray]) -> Foregrounds:
    """Tell the part from the background in good frames uint8 [S, S] or RGB [S, S, 3], at least one, of one size.

    Of grey level and saturation the one whose parts vary least in area is taken; where neither gives parts of a
    plausible and steady area there is no foreground.
    """
    tried = []
    for channel in (_grey, _saturation):
        masks = np.stack([foreground_of(channel(image)) for image in images])
        areas = masks.mean((1, 2))
        area = float(areas.mean())
        spread = float(areas.std() / area) if area > 0 else 1.0
        tried.append(Foregrounds(masks, _refusal(area, spread), area, spread))
    accepted = [each for each in tried if not each.reason]
    if accepted:
        return min(accepted, key=lambda each: each.spread)
    best = min(tried, key=lambda each: each.spread)
    return Foregrounds(None, best.reason, best.area, best.spread)


def foreground_of(levels: np.ndarray) -> np.ndarray:
    """Return the part, bool [S, S], of ``levels`` uint8 [S, S]: Otsu's cut, what the border is mostly is background."""
    import cv2

    _, cut = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    border = np.concatenate((cut[0], cut[-1], cut[1:-1, 0], cut[1:-1, -1]))
    part = (cut if border.mean() < 0.5 else 1 - cut).astype(np.uint8)  # noqa: PLR2004 - the majority
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
    if count == 1:
        return np.zeros(levels.shape, bool)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    kept = np.isin(labels, 1 + np.flatnonzero(areas >= LEAST_COMPONENT * areas.max())).astype(np.uint8)
    contours, _ = cv2.findContours(kept, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(kept, contours, -1, 1, cv2.FILLED)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * GROWN_PX + 1, 2 * GROWN_PX + 1))
    grown: np.ndarray = cv2.dilate(kept, kernel) > 0
    return grown


def _grey(image: np.ndarray) -> np.ndarray:
    import cv2

    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)  # noqa: PLR2004


def _saturation(image: np.ndarray) -> np.ndarray:
    import cv2

    if image.ndim == 2:  # noqa: PLR2004 - grey has none
        return np.zeros_like(image)
    return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[:, :, 1])


def _refusal(area: float, spread: float) -> str:
    if not LEAST_AREA <= area <= MOST_AREA:
        return f"the part would take {area:.0%} of the frame, expected {LEAST_AREA:.0%} to {MOST_AREA:.0%}"
    if spread >= MOST_SPREAD:
        return f"the part's area would vary by {spread:.0%}, expected less than {MOST_SPREAD:.0%}"
    return ""
