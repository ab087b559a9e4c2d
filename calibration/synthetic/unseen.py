"""Kinds of damage that no recipe draws: what a training is judged by on frames it has not seen (ours).

A network that was shown ``SyntheticDefects`` tells just those from good parts, whatever else it forgot. These are made
in other ways, and many of them are faint:

patch  a rectangle of the frame laid elsewhere on it, lighter or darker (after CutPaste, Li et al., CVPR 2021)
scar   the same in a thin turned rectangle
graft  an ellipse of another good frame, without a seam (after NSA, Schlueter et al., ECCV 2022)
warp   the surface twisted, or pushed aside, inside a disc
shade  lighter or darker with a soft edge
blur   an ellipse out of focus
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from calibration.synthetic.defects import LEAST_PX, PlantedDefect
from calibration.synthetic.perlin import ON_PART

Rng = np.random.Generator
#: A frame and another good one, both uint8 RGB [H, W, 3] -> the damaged frame, and where bool [H, W].
Kind = Callable[[np.ndarray, np.ndarray, Rng], tuple[np.ndarray, np.ndarray]]
#: Damage that changes its pixels by less than this on the mean, in levels, is no damage: it is drawn again, so often.
VISIBLE = 6.0
MOST_DRAWS = 50
#: Side of a graft's box below which the solver of its equation has nothing to solve, or refuses, in pixels.
LEAST_GRAFT_PX = 12
#: Shares of the frame: area and aspect of a patch; length and width of a scar, half axes of ellipses, by its side.
PATCH_AREA, PATCH_ASPECT = (0.005, 0.15), (0.3, 3.3)
SCAR_LENGTH, SCAR_WIDTH = (0.04, 0.2), (0.008, 0.03)
AXES, SHADE_AXES, DISC = (0.05, 0.3), (0.03, 0.35), (0.05, 0.2)
#: Factor and shift (levels) of a moved piece; turn (rad) and push (of the radius) of a warp; strength and softness (of
#: the side) of a shade, its shift at strength 1 (levels); sigma (px) of a blur.
PATCH_GAIN, PATCH_SHIFT = (0.75, 1.25), (-15.0, 15.0)
SCAR_GAIN, SCAR_SHIFT = (0.7, 1.3), (-20.0, 20.0)
TWIST_RAD, PUSH = (1.0, 4.0), (0.3, 0.8)
SHADE, SOFTNESS, SHADE_SHIFT = (0.15, 0.5), (0.01, 0.05), 20.0
BLUR_PX = (2.0, 6.0)


def draw_unseen(
    image: np.ndarray, other: np.ndarray, kind: str, rng: Rng, foreground: np.ndarray | None = None
) -> PlantedDefect:
    """Return ``image``, uint8 RGB [H, W, 3], with damage of a ``kind`` of ``UNSEEN_KINDS``, as a copy.

    ``other``: another good frame of the same shape. ``foreground`` float32 [H, W], 0..1: where the part is, and nothing
    is damaged elsewhere; None: everywhere. Where many draws leave nothing to be seen (blur on an even part), the frame
    stays as it is, and the mask is empty.
    """
    part = np.ones(image.shape[:2], bool) if foreground is None else foreground > ON_PART
    for _ in range(MOST_DRAWS if part.sum() >= LEAST_PX else 0):
        damaged, mask = UNSEEN_KINDS[kind](image, other, rng)
        mask &= part
        # What lies beside the mask changes, too, where the edge is soft.
        damaged = np.where(part[:, :, None], damaged, image)
        if mask.sum() >= LEAST_PX and np.abs(damaged[mask].astype(np.int16) - image[mask]).mean() >= VISIBLE:
            return PlantedDefect(damaged, mask, kind)
    return PlantedDefect(image.copy(), np.zeros(image.shape[:2], bool), kind)


def _patch(image: np.ndarray, other: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    del other
    height, width = image.shape[:2]
    area = rng.uniform(*PATCH_AREA) * height * width
    aspect = float(np.exp(rng.uniform(*np.log(PATCH_ASPECT))))
    tall = int(np.clip(np.sqrt(area * aspect), 2, height // 2))
    wide = int(np.clip(np.sqrt(area / aspect), 2, width // 2))
    (y, to_y), (x, to_x) = rng.integers(0, height - tall, 2), rng.integers(0, width - wide, 2)
    piece = _levels(image[y : y + tall, x : x + wide], rng, PATCH_GAIN, PATCH_SHIFT)
    damaged, mask = image.copy(), np.zeros((height, width), bool)
    damaged[to_y : to_y + tall, to_x : to_x + wide] = piece
    mask[to_y : to_y + tall, to_x : to_x + wide] = True
    return damaged, mask


def _scar(image: np.ndarray, other: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    del other
    height, width = image.shape[:2]
    side = min(height, width)
    middle = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    lengths = (float(rng.uniform(*SCAR_LENGTH)) * side, max(2.0, float(rng.uniform(*SCAR_WIDTH)) * side))
    corners = cv2.boxPoints((middle, lengths, float(rng.uniform(0.0, 180.0))))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
    there = mask > 0
    elsewhere = np.roll(image, _shift(rng, height, width), (0, 1))
    damaged = image.copy()
    damaged[there] = _levels(elsewhere[there], rng, SCAR_GAIN, SCAR_SHIFT)
    return damaged, there


def _graft(image: np.ndarray, other: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    height, width = image.shape[:2]
    mask = _ellipse((height, width), rng, AXES)
    # The equation is solved inside the mask: its border must lie inside the frame.
    mask[[0, 1, -2, -1]] = False
    mask[:, [0, 1, -2, -1]] = False
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if min(rows.size, columns.size) < LEAST_GRAFT_PX:
        return image, np.zeros_like(mask)
    # The clone is laid so that the middle of the mask's box comes to this point.
    middle = (int(columns[0] + columns[-1] + 1) // 2, int(rows[0] + rows[-1] + 1) // 2)
    elsewhere = np.roll(other, _shift(rng, height, width), (0, 1))
    how = cv2.MIXED_CLONE if rng.random() < 0.5 else cv2.NORMAL_CLONE  # noqa: PLR2004 - a coin
    damaged = cv2.seamlessClone(elsewhere, image, mask.astype(np.uint8) * 255, middle, how)
    # The solver works on the mask's whole box and moves what lies beside the mask, too, by a few levels.
    return np.where(mask[:, :, None], damaged, image), mask


def _warp(image: np.ndarray, other: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    del other
    height, width = image.shape[:2]
    radius = rng.uniform(*DISC) * min(height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    middle = rng.uniform(0, height), rng.uniform(0, width)
    down, across = rows - middle[0], columns - middle[1]
    away = np.hypot(down, across)
    strength = np.clip(1.0 - away / radius, 0.0, 1.0) ** 2
    if rng.random() < 0.5:  # noqa: PLR2004 - a coin
        turn = strength * rng.uniform(*TWIST_RAD) * rng.choice((-1.0, 1.0))
        from_x = middle[1] + np.cos(turn) * across - np.sin(turn) * down
        from_y = middle[0] + np.sin(turn) * across + np.cos(turn) * down
    else:
        angle, push = rng.uniform(0.0, 2.0 * np.pi), strength * rng.uniform(*PUSH) * radius
        from_x, from_y = columns + np.cos(angle) * push, rows + np.sin(angle) * push
    maps = from_x.astype(np.float32), from_y.astype(np.float32)
    damaged = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    # Further out hardly anything moves.
    return np.asarray(damaged, np.uint8), away < 0.8 * radius


def _shade(image: np.ndarray, other: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    del other
    height, width = image.shape[:2]
    ellipse = _ellipse((height, width), rng, SHADE_AXES).astype(np.float32)
    sigma = max(1.0, float(rng.uniform(*SOFTNESS)) * min(height, width))
    soft = cv2.GaussianBlur(ellipse, (0, 0), sigma)
    gain = float(rng.uniform(*SHADE) * rng.choice((-1.0, 1.0))) * soft[:, :, None]
    return np.clip(image * (1.0 + gain) + SHADE_SHIFT * gain, 0, 255).astype(np.uint8), soft > 0.5  # noqa: PLR2004 - half


def _blur(image: np.ndarray, other: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    del other
    mask = _ellipse(image.shape[:2], rng, AXES)
    damaged = image.copy()
    damaged[mask] = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(*BLUR_PX)))[mask]
    return damaged, mask


def _ellipse(shape: tuple[int, ...], rng: Rng, radii: tuple[float, float]) -> np.ndarray:
    import cv2

    mask = np.zeros(shape, np.uint8)
    centre = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
    axes = [max(3, round(float(radius) * min(shape))) for radius in rng.uniform(*radii, 2)]
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0.0, 180.0)), 0.0, 360.0, 1, thickness=-1)
    return mask > 0


def _shift(rng: Rng, height: int, width: int) -> tuple[int, int]:
    """Draw how far a picture is rolled, at least an eighth of it either way."""
    down, across = (int(rng.integers(side // 8, side - side // 8)) for side in (height, width))
    return down, across


def _levels(piece: np.ndarray, rng: Rng, gain: tuple[float, float], shift: tuple[float, float]) -> np.ndarray:
    changed = piece.astype(np.float32) * rng.uniform(*gain) + rng.uniform(*shift)
    return np.asarray(np.clip(changed, 0, 255), np.uint8)


#: The kinds by name.
UNSEEN_KINDS: Mapping[str, Kind] = {
    "patch": _patch, "scar": _scar, "graft": _graft, "warp": _warp, "shade": _shade, "blur": _blur,
}  # fmt: skip
