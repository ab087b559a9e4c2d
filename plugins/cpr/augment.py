"""How a training picture is varied: salt and pepper, and lightness (specification, section 7.4); nothing moves."""

from __future__ import annotations

import numpy as np

#: Share of pictures each is applied to; range of the share of pixels left alone; range of the factor on lightness.
SHARE = 0.3
LEFT_ALONE = (0.97, 1.0)
LIGHTNESS = (0.9, 1.1)


def augmented(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 RGB [S, S, 3], varied; the very array handed in where nothing was drawn."""
    if rng.random() < SHARE:
        image = salted(image, 1.0 - float(rng.uniform(*LEFT_ALONE)), rng)
    if rng.random() < SHARE:
        image = lightened(image, float(rng.uniform(*LIGHTNESS)))
    return image


def salted(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Set a ``share`` of the pixels, all channels together, half to 255 and half to 0."""
    draw = rng.random(image.shape[:2], np.float32)
    noisy = image.copy()
    noisy[draw < share / 2] = 255
    noisy[draw >= 1.0 - share / 2] = 0
    return noisy


def lightened(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the lightness (HLS) by ``factor``, clipped."""
    import cv2

    hls = cv2.cvtColor(image, cv2.COLOR_RGB2HLS)
    hls[:, :, 1] = np.clip(hls[:, :, 1].astype(np.float32) * factor, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hls, cv2.COLOR_HLS2RGB), np.uint8)
