"""Perlin noise (Perlin 2002, quintic fade) and the masks cut from it (CPR specification, section 7.2)."""

from __future__ import annotations

import numpy as np

#: Cells along an axis are 2^a, a uniform on 0 .. MOST_OCTAVE.
MOST_OCTAVE = 5
#: Noise above this is defect; rotated by up to this many degrees either way first.
CUT = 0.5
TURN_DEG = 90.0
#: Smallest component kept, as a share of the frame's pixels; what the foreground must exceed somewhere in it.
LEAST_AREA = 0.001
ON_PART = 0.5
#: Draws that may come out empty before the part is given up; about one in ten does.
MOST_DRAWS = 100


def perlin(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return noise float32 [H, W], about -1 .. 1, exactly 0 at the nodes of a lattice of ``cells`` (rows, columns)."""
    angles = rng.uniform(0.0, 2.0 * np.pi, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    down, across = np.sin(angles), np.cos(angles)
    row, y = _within(shape[0], cells[0])
    column, x = _within(shape[1], cells[1])
    corners = []
    for lower in (0, 1):
        for right in (0, 1):
            nodes = np.ix_(row + lower, column + right)
            corners.append(down[nodes] * (y - lower)[:, None] + across[nodes] * (x - right)[None, :])
    fade_y, fade_x = _fade(y)[:, None], _fade(x)[None, :]
    top = corners[0] + fade_x * (corners[1] - corners[0])
    bottom = corners[2] + fade_x * (corners[3] - corners[2])
    noise: np.ndarray = np.float32(np.sqrt(2.0)) * (top + fade_y * (bottom - top))
    return noise


def draw_cells(rng: np.random.Generator) -> tuple[int, int]:
    """Return the cell counts of one draw: powers of two from 1 to 32."""
    a, b = rng.integers(0, MOST_OCTAVE + 1, 2)
    return 1 << int(a), 1 << int(b)


def perlin_mask(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a bool [H, W] mask, not cleaned up: rotated noise above ``CUT``; may be empty."""
    import cv2

    height, width = shape
    noise = perlin(shape, draw_cells(rng), rng)
    middle = ((width - 1) / 2, (height - 1) / 2)
    turn = cv2.getRotationMatrix2D(middle, float(rng.uniform(-TURN_DEG, TURN_DEG)), 1.0)
    mask: np.ndarray = cv2.warpAffine(noise, turn, (width, height), flags=cv2.INTER_LINEAR) > CUT
    return mask


def keep_on_part(mask: np.ndarray, foreground: np.ndarray | None, least_px: float) -> np.ndarray:
    """Drop the 8-connected components of a bool [H, W] mask that are below ``least_px`` or off the part.

    ``foreground`` float32 [H, W], 0..1, None: all of it is part. A component that touches the part anywhere (foreground
    above ``ON_PART``) is kept whole.
    """
    import cv2

    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = statistics[:, cv2.CC_STAT_AREA] >= least_px
    keep[0] = False  # the background of the labelling
    if foreground is not None:
        touching = np.zeros(count, bool)
        touching[np.unique(labels[foreground > ON_PART])] = True
        keep &= touching
    kept: np.ndarray = keep[labels]
    return kept


def _within(length: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell every pixel lies in, int64, and where in it, float32 0 .. below 1."""
    place = np.arange(length) * cells
    return place // length, ((place % length) / length).astype(np.float32)


def _fade(t: np.ndarray) -> np.ndarray:
    faded: np.ndarray = t * t * t * (t * (6.0 * t - 15.0) + 10.0)
    return faded
