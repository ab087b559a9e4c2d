"""A piece of the part that is gone, so that what lies behind it is seen: a chip, a bite, a gap where it broke (ours).

What is laid over a part looks like something on it. Where a piece has broken off, there is background instead: the
most ordinary defect of parts that do not fill the frame. It is taken from the frame itself, of elsewhere in one piece,
so that nothing but its place is wrong.
"""

from __future__ import annotations

import numpy as np

from calibration.synthetic.perlin import ON_PART

Rng = np.random.Generator
#: Share of pieces that are gaps; the others are bites. Lengths here are shares of the frame's side.
GAPS = 0.5
#: A bite: its longer half axis, and the shorter one beside it.
AXIS, SLIM = (0.025, 0.19), (0.4, 1.0)
#: A gap, which narrows to a point: length, width at the part's edge, steps, and how far each step may turn.
LENGTH, WIDTH = (0.1, 0.5), (0.02, 0.12)
STEPS, BEND_RAD = 5, 0.3
#: Both: how near the part's edge they begin or have their middle; how far their outline wanders, mostly inwards, so
#: that a narrow gap loses some of its width and its point.
RIM = 0.0125
RAGGED, RAGGED_OVER = 0.005, 0.016
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
    inside, rim = np.argwhere(part), np.argwhere(part & ~_shrunk(part, max(1, round(RIM * side))))
    ground = _shrunk(foreground < GROUND, max(1, round(0.5 * RIM * side)))
    smallest = max(1.0, LEAST_AREA * part.size)
    if not len(rim) or ground.sum() < MOSTLY * smallest:
        return None
    outside, gap = foreground <= GROUND, rng.random() < GAPS
    beside = cv2.dilate(outside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    for _ in range(MOST_PIECES):
        start, towards = (each[rng.integers(len(each))][::-1] for each in (rim, inside))
        outline = _gap(part.shape, start, towards, rng) if gap else _bite(part.shape, start, rng)
        # Pixels to the outline, more or less: where it wanders inside, the edge is ragged.
        depth = cv2.distanceTransform(outline, cv2.DIST_L2, cv2.DIST_MASK_3) / (RAGGED * side)
        ragged = (outline > 0) & (depth + _wandering(part.shape, rng) > 1.0) & ~outside
        mask = _touching(ragged, beside)
        behind = _behind(mask, ground, rng) if mask.sum() >= smallest else None
        if behind is not None:
            taken = image.copy()
            taken[mask] = image[behind]
            return taken, mask
    return None


def _bite(shape: tuple[int, ...], middle: np.ndarray, rng: Rng) -> np.ndarray:
    """Return an ellipse around ``middle``, (x, y): uint8 [H, W], 1 inside."""
    import cv2

    axis = rng.uniform(*AXIS) * min(shape)
    axes = [max(1, round(float(each))) for each in (axis, axis * rng.uniform(*SLIM))]
    outline = np.zeros(shape, np.uint8)
    cv2.ellipse(outline, (int(middle[0]), int(middle[1])), axes, float(rng.uniform(0.0, 180.0)), 0.0, 360.0, 1, -1)
    return outline


def _gap(shape: tuple[int, ...], start: np.ndarray, towards: np.ndarray, rng: Rng) -> np.ndarray:
    """Return a bent wedge from ``start``, (x, y), where it is widest, ``towards`` a place: uint8 [H, W], 1 inside."""
    import cv2

    length, width = (rng.uniform(*bounds) * min(shape) for bounds in (LENGTH, WIDTH))
    angle, at = float(np.arctan2(towards[1] - start[1], towards[0] - start[0])), start.astype(float)
    along, across = _axes(angle)
    # It begins outside, as wide, so that it is open at the edge.
    left, right = [at - width * along + 0.5 * width * across], [at - width * along - 0.5 * width * across]
    for narrowed in np.linspace(1.0, 0.0, STEPS + 1):
        along, across = _axes(angle)
        left.append(at + 0.5 * width * narrowed * across)
        right.append(at - 0.5 * width * narrowed * across)
        at = at + length / STEPS * along
        angle += rng.normal(0.0, BEND_RAD)
    outline = np.zeros(shape, np.uint8)
    cv2.fillPoly(outline, [np.round([*left, *right[::-1]]).astype(np.int32)], 1)
    return outline


def _axes(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors (x, y) along a direction, in radians, and across it."""
    return np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])


def _touching(mask: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Return the regions of a mask bool [H, W] that reach ``beside``: raggedness leaves islands of a thin gap."""
    import cv2

    regions = cv2.connectedComponents(mask.astype(np.uint8))[1]
    kept: np.ndarray = mask & np.isin(regions, regions[mask & beside])
    return kept


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
