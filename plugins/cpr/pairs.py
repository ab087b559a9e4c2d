"""Which pixels of a frame and its reference are compared in training (specification, section 7.4).

Pixels are (x, y) of the resized frame. Lists have one length, padded with weight 0, so that batches stack.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Remote pairs are further apart than this, in pixels: 4 sqrt(2), stride of the finest layer by half its region.
REMOTE_PX = 4.0 * float(np.sqrt(2.0))
#: Pixels around a defect that are neither normal nor defect: what the authors' lossy masks did by accident.
GUARD_PX = 4


@dataclass(frozen=True)
class Pairs:
    """Pairs of one kind for one frame: pixels float32 [n, 2] in frame and reference, weights float32 [n], 0 or 1."""

    frame: np.ndarray
    reference: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Window:
    """Pixels that pairs are drawn from: columns ``left`` .. ``left`` + ``width`` - 1, rows likewise."""

    left: int
    top: int
    width: int
    height: int


def draw_pairs(
    mask: np.ndarray,
    guarded: np.ndarray,
    weights: np.ndarray | None,
    window: Window,
    rng: np.random.Generator,
    *,
    count: int,
    remote: bool,
) -> tuple[Pairs, Pairs, Pairs]:
    """Return (normal, remote, anomalous) pairs inside a window, ``count`` of each at most.

    ``mask`` bool [S, S]: the defect; ``guarded``: it and ``GUARD_PX`` around. ``weights`` [S, S] > 0: how likely a
    normal pixel is drawn; None: all alike. ``remote``: whether remote pairs are wanted, which only parts have.
    """
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    normal = np.flatnonzero(~guarded[rows, columns])
    likely = None if weights is None else weights[rows, columns].ravel()[normal]
    drawn = normal[_draw(normal.size, 2 * count, likely, rng)]
    same = _pixels(drawn[:count], window)
    defect = np.flatnonzero(mask[rows, columns])
    broken = _pixels(defect[_draw(defect.size, count, None, rng)], window)
    here, there = _remote(drawn if remote else drawn[:0], window, count, rng)
    return _padded(same, same, count), _padded(here, there, count), _padded(broken, broken, count)


def sharpened(foreground: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^(5 - 10 v)) of foreground values 0..1: never below 0.0067, so that a draw cannot run dry."""
    sharp: np.ndarray = 1.0 / (1.0 + np.exp(5.0 - 10.0 * foreground))
    return sharp


def sampling_weights(frame: np.ndarray, reference: np.ndarray, size: int) -> np.ndarray:
    """Return how likely each pixel is drawn, float32 [size, size], from foreground maps [H, H] of frame and reference.

    Smoothed, sharpened, the larger of the two. Sigma H / 25, reflected borders, four sigmas wide.
    """
    import cv2

    sigma = frame.shape[0] / 25.0
    width = 2 * int(4.0 * sigma + 0.5) + 1
    maps = []
    for each in (frame, reference):
        smooth = cv2.GaussianBlur(each.astype(np.float32), (width, width), sigma, borderType=cv2.BORDER_REFLECT)
        maps.append(cv2.resize(sharpened(smooth), (size, size), interpolation=cv2.INTER_LINEAR))
    return np.asarray(np.maximum(*maps), np.float32)


def guarded_mask(mask: np.ndarray) -> np.ndarray:
    """Return ``mask`` bool [S, S] grown by ``GUARD_PX``."""
    import cv2

    kernel = np.ones((2 * GUARD_PX + 1, 2 * GUARD_PX + 1), np.uint8)
    grown: np.ndarray = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    return grown


def _draw(available: int, count: int, likely: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Draw at most ``count`` of ``available`` without replacement, each with a chance in proportion to ``likely``."""
    if likely is None:
        return rng.permutation(available)[:count]
    # Exponential clocks: the first to ring are a weighted draw without replacement, in the order of drawing.
    clocks = rng.exponential(size=available) / likely
    return np.argsort(clocks, kind="stable")[:count]


def _remote(drawn: np.ndarray, window: Window, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pair reference pixels with frame pixels anywhere in the window, defect or not, further apart than REMOTE_PX."""
    there = _pixels(drawn, window)
    here = _pixels(rng.permutation(window.width * window.height)[: len(drawn)], window)
    far = is_remote(here[: len(there)], there[: len(here)])
    return here[: far.size][far][:count], there[: far.size][far][:count]


def is_remote(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return which pixels [n, 2] are strictly further than ``REMOTE_PX`` from their partners."""
    # In whole pixels, so that an offset of exactly (4, 4) is refused however sqrt rounds.
    squared: np.ndarray = np.square(here.astype(np.int64) - there.astype(np.int64)).sum(axis=1)
    return squared > round(REMOTE_PX**2)


def _pixels(flat: np.ndarray, window: Window) -> np.ndarray:
    return np.stack((window.left + flat % window.width, window.top + flat // window.width), axis=1)


def _padded(frame: np.ndarray, reference: np.ndarray, count: int) -> Pairs:
    weights = np.zeros(count, np.float32)
    weights[: len(frame)] = 1.0
    places = np.zeros((2, count, 2), np.float32)
    places[0, : len(frame)], places[1, : len(reference)] = frame, reference
    return Pairs(places[0], places[1], weights)
