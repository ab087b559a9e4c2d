"""HETMM's arithmetic written down a second time: numpy, float64, loops straight from the definition, slow on purpose.

Nothing here knows how the detector computes it. Numbers of the specification are checked against this file as well.
"""

from __future__ import annotations

import numpy as np

Half = int | None
"""Half-width of a window in feature pixels; None: the direction is off."""


def unit(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Scale vectors along ``axis`` to length 1, in float64."""
    wide = values.astype(np.float64)
    return wide / np.maximum(np.sqrt((wide**2).sum(axis=axis, keepdims=True)), 1e-12)


def distances(query: np.ndarray, sheets: np.ndarray, ahead: Half, back: Half) -> tuple[np.ndarray, np.ndarray]:
    """Return (a_F, a_B), each [H, W], of query [C, H, W] against sheets [T, C, H, W]; a direction off gives zeros."""
    height, width = query.shape[1:]
    a_forward, a_backward = np.zeros((height, width)), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            if ahead is not None:
                near = [sheets[:, :, v, u] @ query[:, y, x] for v, u in window(y, x, ahead, height, width)]
                a_forward[y, x] = 1 - max(-1.0, np.max(near))
            if back is not None:
                near = [sheets[:, :, y, x] @ query[:, v, u] for v, u in window(y, x, back, height, width)]
                a_backward[y, x] = 1 - max(-1.0, np.max(near))
    return a_forward, a_backward


def window(y: int, x: int, half: int, height: int, width: int) -> list[tuple[int, int]]:
    """List the pixels at most ``half`` rows and columns away that are inside the image."""
    return [
        (v, u)
        for v in range(y - half, y + half + 1)
        for u in range(x - half, x + half + 1)
        if 0 <= v < height and 0 <= u < width
    ]


def upsample(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with aligned corners: the first and last sample stay where they are."""
    return _stretch(_stretch(plane, height).T, width).T


def _stretch(rows: np.ndarray, count: int) -> np.ndarray:
    last = rows.shape[0] - 1
    stretched = []
    for index in range(count):
        at = index * last / (count - 1)
        low = min(int(at), max(last - 1, 0))
        share = at - low
        stretched.append((1 - share) * rows[low] + share * rows[min(low + 1, last)])
    return np.stack(stretched)


def blur(plane: np.ndarray, sigma: float, size: int, *, normalised: bool) -> np.ndarray:
    """Gaussian of ``size`` x ``size`` taps that sum to 1, zeros outside; ``normalised`` divides by the blurred ones."""
    at = np.arange(size) - size // 2
    taps = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    reach = size // 2
    answers = []
    for values in (plane, np.ones_like(plane)):
        room = np.pad(values, reach)
        blurred = np.zeros_like(values, dtype=np.float64)
        for v in range(size):
            for u in range(size):
                blurred += taps[v, u] * room[v : v + plane.shape[0], u : u + plane.shape[1]]
        answers.append(blurred)
    return answers[0] / answers[1] if normalised else answers[0]


def answer(taps: list[np.ndarray], banks: list[np.ndarray], settings: dict) -> tuple[np.ndarray, float]:
    """Return (map, score) from a frame's backbone taps [C, H, W] and stored sheets [T, C, H, W], of norm 1 to rounding.

    ``settings``: the resolved settings of the template, as its manifest has them.
    """
    size = settings["image_size"]
    total = np.zeros((size, size))
    for layer, (tap, bank) in enumerate(zip(taps, banks, strict=True)):
        ahead, back = (side // 2 if side else None for side in settings["windows"][layer])
        alpha = 0.0 if ahead is None else 1.0 if back is None else settings["alpha"][layer]
        a_forward, a_backward = distances(unit(tap), bank.astype(np.float64), ahead, back)
        total += settings["weight"][layer] * upsample(alpha * a_forward + (1 - alpha) * a_backward, size, size)
    smoothed = total
    if settings["blur_sigma"]:
        smoothed = blur(total, settings["blur_sigma"], settings["blur_kernel"], normalised=True)
    if settings["score"] == "top_mean":
        return smoothed, float(np.sort(total, None)[-settings["score_pixels"] :].mean())
    return smoothed, float((smoothed if settings["score"] == "smoothed_max" else total).max())
