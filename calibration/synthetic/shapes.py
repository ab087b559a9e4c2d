"""Masks that Perlin noise hardly ever gives: thin strokes such as cracks, small round spots, and large areas.

Ours, not the CPR paper's: noise makes blobs of a twentieth of the frame, while much of what goes wrong with parts is
thin or small, and some of it a whole side of the part. Sizes are shares of the frame's side: they scale with it.
"""

from __future__ import annotations

import numpy as np

Rng = np.random.Generator
#: Strokes: width, length of one step, steps, and how far each step may turn.
STROKE_WIDTH = (0.004, 0.02)
STEP_LENGTH = (0.02, 0.06)
FEWEST_STEPS, MOST_STEPS = 3, 20
BEND_RAD = 0.6
#: Spots: half axes, and how many there may be.
SPOT_RADIUS = (0.008, 0.06)
MOST_SPOTS = 3
#: Areas: share of the frame's pixels; how far the edge wanders, as a share of the side, at so many nodes along an axis;
#: half axes of an ellipse beside each other.
AREA_SHARE = (0.05, 0.5)
EDGE_DEPTH = (0.0, 0.04)
EDGE_NODES = 6
AREA_AXES = (0.3, 1.0)


def stroke_mask(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """Return a bool [H, W] mask of one wandering line of even width."""
    import cv2

    side = min(shape)
    straight = rng.random() < 0.5  # noqa: PLR2004 - a coin
    bend = 0.05 if straight else BEND_RAD
    at = rng.uniform(0.0, 1.0, 2) * (shape[1], shape[0])
    angle = rng.uniform(0.0, 2.0 * np.pi)
    step = rng.uniform(*STEP_LENGTH) * side
    points = [at]
    for _ in range(int(rng.integers(FEWEST_STEPS, MOST_STEPS + 1))):
        angle += rng.normal(0.0, bend)
        at = at + step * np.array([np.cos(angle), np.sin(angle)])
        points.append(at)
    mask = np.zeros(shape, np.uint8)
    width = max(1, round(float(rng.uniform(*STROKE_WIDTH)) * side))
    cv2.polylines(mask, [np.round(points).astype(np.int32)], isClosed=False, color=1, thickness=width)
    return mask > 0


def spot_mask(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """Return a bool [H, W] mask of one to three ellipses."""
    import cv2

    side, mask = min(shape), np.zeros(shape, np.uint8)
    for _ in range(int(rng.integers(1, MOST_SPOTS + 1))):
        centre = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
        axes = [max(1, round(float(radius) * side)) for radius in rng.uniform(*SPOT_RADIUS, 2)]
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0.0, 180.0)), 0.0, 360.0, 1, thickness=-1)
    return mask > 0


def area_mask(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """Return a bool [H, W] mask of one large area with a wandering edge: a side or corner of the frame, or an ellipse.

    An ellipse may lie half outside the frame.
    """
    import cv2

    height, width = shape
    down, across = np.mgrid[:height, :width].astype(np.float32)
    down, across = down / height - 0.5, across / width - 0.5
    if rng.random() < 0.5:  # noqa: PLR2004 - a coin
        angle = rng.uniform(0.0, 2.0 * np.pi)
        depth = np.cos(angle) * across + np.sin(angle) * down
    else:
        middle, axes = rng.uniform(-0.5, 0.5, 2), rng.uniform(*AREA_AXES, 2)
        depth = -np.hypot((across - middle[0]) / axes[0], (down - middle[1]) / axes[1])
    nodes = rng.normal(0.0, 1.0, (EDGE_NODES, EDGE_NODES)).astype(np.float32)
    depth = depth + rng.uniform(*EDGE_DEPTH) * cv2.resize(nodes, (width, height), interpolation=cv2.INTER_CUBIC)
    mask: np.ndarray = depth > np.quantile(depth, 1.0 - rng.uniform(*AREA_SHARE))
    return mask
