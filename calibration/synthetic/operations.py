"""Ten ways to distort a picture (CPR specification, section 7.3): uint8 RGB [H, W, 3] in and out, ranges uniform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Operation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Rng = np.random.Generator


def gamma(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Raise each channel to its own power in (0.5, 2)."""
    levels = np.arange(256) / 255.0
    tables = np.stack([255.0 * levels**power for power in rng.uniform(0.5, 2.0, 3)], axis=1)
    return _look_up(image, tables)


def brightness(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Scale by (0.8, 1.2) and shift by (-30, 30), in random order, the brightness of a random colour space."""
    import cv2

    spaces: tuple[tuple[Any, Any, int], ...] = (
        (cv2.COLOR_RGB2YCrCb, cv2.COLOR_YCrCb2RGB, 0),
        (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB, 2),
        (cv2.COLOR_RGB2HLS, cv2.COLOR_HLS2RGB, 1),
        (cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB, 0),
        (cv2.COLOR_RGB2LUV, cv2.COLOR_LUV2RGB, 0),
        (cv2.COLOR_RGB2YUV, cv2.COLOR_YUV2RGB, 0),
    )
    there, back, channel = spaces[int(rng.integers(len(spaces)))]
    scale, shift = rng.uniform(0.8, 1.2), rng.uniform(-30.0, 30.0)
    converted = cv2.cvtColor(image, there)
    values = converted[:, :, channel].astype(np.float32)
    values = values * scale + shift if rng.random() < 0.5 else (values + shift) * scale  # noqa: PLR2004 - a coin
    converted[:, :, channel] = np.clip(values, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(converted, back), np.uint8)


def sharpness(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Blend with a smoothed copy, factor (0, 2): 0 = the copy, 1 = the picture, 2 = sharpened."""
    import cv2

    factor = float(rng.uniform(0.0, 2.0))
    # Pillow's SMOOTH, which the recipe's library uses: the middle counts 5 of 13.
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13.0
    smooth = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.addWeighted(image, factor, smooth, 1.0 - factor, 0.0), np.uint8)


def hue_saturation(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Turn the hue and shift the saturation, each by whole levels in -50 .. 50 of 255."""
    import cv2

    hue, saturation = rng.integers(-50, 51, 2)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
    hsv[:, :, 0] = (hsv[:, :, 0] + round(hue * 180 / 255)) % 180
    hsv[:, :, 1] = np.clip(hsv[:, :, 1] + saturation, 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


def solarise(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Half of the time, invert what is at or above a threshold in (32, 128)."""
    threshold = rng.uniform(32.0, 128.0)
    if rng.random() >= 0.5:  # noqa: PLR2004 - a coin
        return image
    return np.where(image >= threshold, 255 - image, image)


def posterise(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Keep the top 1 to 8 bits."""
    kept = int(rng.integers(1, 9))
    return image & np.uint8(256 - (1 << (8 - kept)))


def invert(image: np.ndarray, rng: Rng) -> np.ndarray:
    """255 - v."""
    del rng
    return 255 - image


def auto_contrast(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Stretch the levels left after cutting 0 to 20 % off both ends of the joint histogram."""
    cut = int(rng.integers(0, 21)) / 100.0
    below = np.cumsum(np.bincount(image.ravel(), minlength=256))
    low = int(np.searchsorted(below, cut * image.size, side="right"))
    high = int(np.searchsorted(below, (1.0 - cut) * image.size, side="left"))
    if high <= low:
        return image
    levels = np.clip((np.arange(256) - low) * (255.0 / (high - low)), 0, 255)
    return _look_up(image, np.repeat(levels[:, None], 3, 1))


def equalise(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Flatten the histogram of each channel."""
    import cv2

    del rng
    return np.stack([cv2.equalizeHist(np.ascontiguousarray(image[:, :, channel])) for channel in range(3)], axis=2)


def rotate(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Turn by (-45, 45) degrees about the middle, bilinear, zeros around."""
    import cv2

    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(rng.uniform(-45.0, 45.0)), 1.0)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8)


#: The operations in the order of the specification; pasted defects are never rotated by them (section 7.8).
PHOTOMETRIC: tuple[Operation, ...] = (
    gamma, brightness, sharpness, hue_saturation, solarise, posterise, invert, auto_contrast, equalise,
)  # fmt: skip
ALL: tuple[Operation, ...] = (*PHOTOMETRIC, rotate)


def distort(image: np.ndarray, rng: Rng, operations: Sequence[Operation] = ALL, count: int = 3) -> np.ndarray:
    """Apply ``count`` different ``operations`` drawn at random, in the order drawn."""
    for chosen in rng.choice(len(operations), count, replace=False):
        image = operations[int(chosen)](image, rng)
    return np.ascontiguousarray(image)


def _look_up(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Replace levels by ``tables`` float [256, 3], rounded."""
    import cv2

    table = np.round(tables).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)
