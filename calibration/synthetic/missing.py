"""A piece of the part that is gone, so that what lies behind it is seen: a chip, a broken corner, a bite (ours).

What is laid over a part looks like something on it. Where a piece has broken off, there is background instead: the
most ordinary defect of parts that do not fill the frame. It is taken from the frame itself, of elsewhere in one piece,
so that nothing but its place is wrong.
"""

from __future__ import annotations

import numpy as np

from calibration.synthetic.perlin import ON_PART

Rng = np.random.Generator
#: Half axes of a piece, and the shorter one beside the longer one; how far its edge wanders; how near the part's edge
#: its middle lies: lengths as shares of the frame's side.
AXIS, SLIM = (0.025, 0.19), (0.4, 1.0)
RAGGED, RAGGED_OVER = 0.005, 0.016
RIM = 0.0125
#: Foreground below this is background for certain; as much of what is shown must be.
GROUND, MOSTLY = 0.3, 0.98
#: Pieces that are drawn before the part is given up, places that are tried for what lies behind each, smallest piece.
MOST_PIECES, MOST_PLACES = 10, 40
LEAST_AREA = 0.0006


def take_piece(image: np.ndarray, foreground: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a copy of ``image``, uint8 RGB [H, W, 3], without a piece at the part's edge, and where, bool [H, W].

    ``foreground`` float32 [H, W], 0..1. None where no piece was found for which the frame has enough background.
    """
    import cv2

    side = min(image.shape[:2])
    part = foreground > ON_PART
    rim = np.argwhere(part & ~_shrunk(part, max(1, round(RIM * side))))
    ground = _shrunk(foreground < GROUND, max(1, round(0.5 * RIM * side)))
    smallest = max(1.0, LEAST_AREA * part.size)
    if not len(rim) or ground.sum() < MOSTLY * smallest:
        return None
    for _ in range(MOST_PIECES):
        y, x = rim[rng.integers(len(rim))]
        axis = rng.uniform(*AXIS) * side
        axes = [max(1, round(float(each))) for each in (axis, axis * rng.uniform(*SLIM))]
        ellipse = np.zeros(part.shape, np.uint8)
        cv2.ellipse(ellipse, (int(x), int(y)), axes, float(rng.uniform(0.0, 180.0)), 0.0, 360.0, 1, thickness=-1)
        # Pixels to the ellipse's edge, more or less: where it wanders inside, the edge is ragged.
        depth = cv2.distanceTransform(ellipse, cv2.DIST_L2, cv2.DIST_MASK_3) / (RAGGED * side)
        mask: np.ndarray = (ellipse > 0) & (depth + _wandering(part.shape, rng) > 1.0) & (foreground > GROUND)
        behind = _behind(mask, ground, rng) if mask.sum() >= smallest else None
        if behind is not None:
            taken = image.copy()
            taken[mask] = image[behind]
            return taken, mask
    return None


def _behind(mask: np.ndarray, ground: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray] | None:
    """Return rows and columns of a place of the frame, of the mask's shape, where there is background."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    for _ in range(MOST_PLACES):
        down = int(rng.integers(-rows.min(), height - rows.max()))
        across = int(rng.integers(-columns.min(), width - columns.max()))
        there = (rows + down, columns + across)
        if ground[there].mean() >= MOSTLY:
            return there
    return None


def _shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    """Return a bool [H, W] mask without what lies within ``by`` pixels of its edge; the frame's edge is none."""
    import cv2

    shrunk: np.ndarray = cv2.erode(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0
    return shrunk


def _wandering(shape: tuple[int, ...], rng: Rng) -> np.ndarray:
    """Return smooth noise [H, W] of mean 0 and variance 1."""
    import cv2

    noise = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), max(0.5, RAGGED_OVER * min(shape)))
    smooth: np.ndarray = noise / max(float(noise.std()), 1e-6)
    return smooth
