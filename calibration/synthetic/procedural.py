"""Textures drawn from nothing, for where no folder of textures is given (CPR specification, section 7.2).

Each field is float32 [side, side]; a palette of two to four colours and some noise make it a picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calibration.synthetic.perlin import draw_cells, perlin

Rng = np.random.Generator
#: Periods of gratings and checkers, pixels at a side of 320; cells of Voronoi diagrams.
PERIODS_PX = (4.0, 80.0)
FEWEST_SEEDS, MOST_SEEDS = 20, 2000
_REFERENCE_SIDE = 320


def gaussian_field(side: int, rng: Rng) -> np.ndarray:
    """Gaussian random field of spectrum |f|^(-beta / 2), beta in (0.5, 3): from grain to clouds."""
    beta = rng.uniform(0.5, 3.0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) * frequency ** (-beta / 2)
    spectrum[0, 0] = 0.0
    return np.fft.irfft2(spectrum, (side, side)).astype(np.float32)


def grating(side: int, rng: Rng) -> np.ndarray:
    """One or two gratings, sinusoidal or square, at random angles and periods."""
    field = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(1, 3))):
        wave = np.sin(_along(side, rng) * (2.0 * np.pi / _period(side, rng)) + rng.uniform(0.0, 2.0 * np.pi))
        field += np.sign(wave) if rng.random() < 0.5 else wave  # noqa: PLR2004 - a coin
    return field


def voronoi(side: int, rng: Rng) -> np.ndarray:
    """Cells around 20 to 2000 seeds: their distance from the seed (Worley), or one level each."""
    import cv2

    count = int(np.exp(rng.uniform(np.log(FEWEST_SEEDS), np.log(MOST_SEEDS))))
    seeds = np.ones((side, side), np.uint8)
    seeds[rng.integers(0, side, count), rng.integers(0, side, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    if rng.random() < 0.5:  # noqa: PLR2004 - a coin
        return np.asarray(distance, np.float32)
    levels = rng.random(int(labels.max()) + 1).astype(np.float32)
    return np.asarray(levels[labels])


def octaves(side: int, rng: Rng) -> np.ndarray:
    """Perlin noise on lattices twice as fine each time, half as strong."""
    rows, columns = draw_cells(rng)
    layers = [perlin((side, side), (rows << n, columns << n), rng) * 0.5**n for n in range(3)]
    return np.asarray(np.sum(layers, axis=0, dtype=np.float32))


def checkers(side: int, rng: Rng) -> np.ndarray:
    """Checkerboard at a random angle."""
    angle, period = rng.uniform(0.0, np.pi), _period(side, rng)
    first, second = _along(side, rng, angle), _along(side, rng, angle + np.pi / 2)
    return np.where((np.floor(first / period) + np.floor(second / period)) % 2 > 0, 1.0, 0.0).astype(np.float32)


def flat(side: int, rng: Rng) -> np.ndarray:
    """One level."""
    del rng
    return np.zeros((side, side), np.float32)


FIELDS: tuple[Callable[[int, Rng], np.ndarray], ...] = (gaussian_field, grating, voronoi, octaves, checkers, flat)


def draw_texture(side: int, rng: Rng) -> np.ndarray:
    """Return a procedural texture, uint8 RGB [side, side, 3]."""
    field = FIELDS[int(rng.integers(len(FIELDS)))](side, rng)
    low, high = float(field.min()), float(field.max())
    place = (field - low) / (high - low) if high > low else np.full_like(field, 0.5)
    palette = rng.integers(0, 256, (int(rng.integers(2, 5)), 3)).astype(np.float32)
    stops = np.linspace(0.0, 1.0, len(palette))
    # Looked up in 256 steps: interpolating every pixel would cost more than drawing the field.
    table = np.stack(
        [np.interp(np.linspace(0.0, 1.0, 256), stops, palette[:, channel]) for channel in range(3)], axis=1
    )
    picture = table.astype(np.float32)[(place * 255.0).astype(np.uint8)]
    noise = rng.uniform(0.0, 0.1) * 255.0
    picture += noise * rng.standard_normal((side, side, 1), np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _along(side: int, rng: Rng, angle: float | None = None) -> np.ndarray:
    """Return how far every pixel lies along a direction, float32 [side, side], pixels."""
    turn = rng.uniform(0.0, np.pi) if angle is None else angle
    steps = np.arange(side, dtype=np.float32)
    return np.asarray(steps[:, None] * np.float32(np.sin(turn)) + steps[None, :] * np.float32(np.cos(turn)))


def _period(side: int, rng: Rng) -> float:
    return float(rng.uniform(*PERIODS_PX)) * side / _REFERENCE_SIDE
