"""Defect kinds of the simulated part: each takes a good part's layers and returns the layers of a bad one.

A defect changes what it would change in the shop: a dent the height, a missing hole height and coverage, a stain the
film on the metal. Lengths are design px (see `runtime.testing.plate`); the arrays handed in are shared and never
written to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.testing.plate import (
    BODY,
    CORNER_RADIUS,
    COUNTERSINK,
    HOLES,
    PRINT_ORIGIN,
    SLOT,
    Layers,
    Plane,
    Plate,
    Point,
)

Random = np.random.Generator
Defect = Callable[[Plate, Random], Layers]

FAR = 8.0
"""Distance in design px past which a blob no longer matters: wider than any rim or fracture drawn round one."""


def scratch(plate: Plate, random: Random) -> Layers:
    """Scratch a slightly curved groove 35 to 95 px long and about 1 px wide, bright or dark, fading at its ends."""
    length, width = random.uniform(35, 95), random.uniform(0.8, 1.5)
    x, y = _somewhere(plate, random, 12)
    angle = random.uniform(0, np.pi)
    t = np.linspace(-1, 1, 40)
    along, bend = 0.5 * length * t, random.uniform(-0.14, 0.14) * length * (1 - t * t)
    line_x = x + along * np.cos(angle) - bend * np.sin(angle)
    line_y = y + along * np.sin(angle) + bend * np.cos(angle)
    groove = _stroke(plate, line_x, line_y, width * (1 - 0.6 * t * t))
    change = random.choice((0.55, 0.55, -0.5))  # bared metal more often than a dirty groove
    film = np.ones((*plate.shape, 3), np.float32)
    film += (np.float32(change) * groove)[..., None]
    return replace(plate.layers, height=plate.layers.height - np.float32(1.1 * plate.scale / 2) * groove, film=film)


def dent(plate: Plate, random: Random) -> Layers:
    """Dent a smooth oval hollow, 7 to 13 px in radius, with a low raised rim; the finish is unbroken."""
    radius, stretch = random.uniform(7, 13), random.uniform(0.75, 1.0)
    centre = _somewhere(plate, random, radius + 3)
    x, y = _turned(plate, centre, random.uniform(0, np.pi))
    r2 = (x * x + (y / stretch) ** 2) / radius**2
    depth = np.float32(random.uniform(0.30, 0.42) * radius * plate.scale)
    # Minus the second derivative of a Gaussian: hollow in the middle, a low rim round it, level beyond.
    hollow = depth * (1 - 0.55 * r2) * np.exp(-1.6 * r2)
    return replace(plate.layers, height=np.asarray(plate.layers.height - hollow, np.float32))


def stain(plate: Plate, random: Random) -> Layers:
    """Stain with a translucent irregular blotch of dried oil or coolant, 13 to 26 px in radius, darker at its rim."""
    radius = random.uniform(13, 26)
    blob = _blob(plate, _somewhere(plate, random, 14), radius, 0.30, random)
    inside = np.clip(blob / 2.5 + 0.5, 0, 1)
    rim = np.exp(-(((blob - 1.5) / 2.2) ** 2))
    cloud = cv2.resize(
        random.standard_normal((24, 24), dtype=np.float32), plate.shape[::-1], interpolation=cv2.INTER_CUBIC
    )
    density = inside * (random.uniform(0.55, 0.8) + 0.13 * cloud) + 0.30 * rim * inside
    absorbed = np.array(((0.30, 0.38, 0.52), (0.36, 0.38, 0.40))[random.integers(2)], np.float32)
    film = 1 - np.clip(density, 0, 1.4)[..., None] * absorbed
    return replace(plate.layers, film=film.astype(np.float32))


def missing_hole(plate: Plate, random: Random) -> Layers:
    """Leave one hole undrilled: level, brushed metal where the hole should be."""
    hole_x, hole_y, radius = HOLES[random.integers(len(HOLES))]
    x, y = plate.grid
    undrilled = np.hypot(x - hole_x, y - hole_y) < radius + COUNTERSINK + 2
    return replace(
        plate.layers,
        coverage=np.where(undrilled, np.float32(1), plate.layers.coverage),
        height=np.where(undrilled, np.float32(0), plate.layers.height),
    )


def smeared_print(plate: Plate, random: Random) -> Layers:
    """Drag wet ink sideways and leave a pale remainder behind, or leave a patch of the legend unprinted."""
    centre = (PRINT_ORIGIN[0] + random.uniform(14, 62), PRINT_ORIGIN[1] + random.uniform(-20, 14))
    blob = _blob(plate, centre, random.uniform(13, 20), 0.25, random)
    touched = np.clip(blob / 3 + 0.5, 0, 1)
    ink = plate.layers.ink
    if random.integers(2):
        unprinted = 1 - random.uniform(0.85, 1.0) * touched
        return replace(plate.layers, ink=np.asarray(ink * unprinted, np.float32))
    drag = max(3, round(random.uniform(9, 15) * plate.scale))
    angle = random.uniform(-0.35, 0.35)
    kernel = np.zeros((2 * drag + 1, 2 * drag + 1), np.float32)
    end = (round(drag + drag * np.cos(angle)), round(drag + drag * np.sin(angle)))
    cv2.line(kernel, (drag, drag), end, 1.0, 1)
    # filter2D correlates; the flipped kernel drags the ink towards ``end``.
    smear = cv2.filter2D(ink * touched, cv2.CV_32F, cv2.flip(kernel, -1) / kernel.sum())
    smear = cv2.GaussianBlur(smear, (0, 0), 0.5 * plate.scale)
    return replace(plate.layers, ink=np.clip(ink * (1 - 0.55 * touched) + 1.5 * smear, 0, 1))


def chip(plate: Plate, random: Random) -> Layers:
    """Break a bite of 6 to 12 px radius out of the outer edge, with a rough, steep fracture round it."""
    centre = _on_outline(random)
    radius = random.uniform(6, 12)
    bite = _blob(plate, centre, radius, 0.22, random)
    h, w = plate.shape
    grains = random.standard_normal((h // 3, w // 3), dtype=np.float32)
    rough = cv2.resize(grains, (w, h), interpolation=cv2.INTER_LINEAR)
    # The fracture slopes over the band just outside the bite.
    fracture = np.clip(1 + bite / 3.5, 0, 1)
    height = plate.layers.height - np.float32(plate.scale) * fracture * (1.8 + 0.55 * rough)
    coverage = np.minimum(plate.layers.coverage, np.clip(0.5 - bite * plate.scale, 0, 1))
    return replace(plate.layers, coverage=coverage.astype(np.float32), height=height.astype(np.float32))


def contamination(plate: Plate, random: Random) -> Layers:
    """Drop foreign matter: one curled fibre 40 to 80 px long, or two to five chips of swarf 2 to 4 px in radius."""
    matter = np.zeros(plate.shape, np.float32)
    if random.integers(2):
        start = _somewhere(plate, random, 15)
        steps = 60
        turns = np.cumsum(np.cumsum(random.normal(0, 0.009, steps))) + random.uniform(0, 2 * np.pi)
        stride = random.uniform(40, 80) / steps
        matter = _stroke(
            plate,
            start[0] + stride * np.cumsum(np.cos(turns)),
            start[1] + stride * np.cumsum(np.sin(turns)),
            np.full(steps, random.uniform(0.75, 1.2)),
        )
        colour = ((0.09, 0.09, 0.11), (0.55, 0.13, 0.10), (0.10, 0.20, 0.48))[random.integers(3)]
    else:
        x, y = _somewhere(plate, random, 12)
        for _ in range(random.integers(2, 6)):
            near = (x + random.normal(0, 8), y + random.normal(0, 8))
            grain = _blob(plate, near, random.uniform(2.0, 4.0), 0.35, random)
            matter = np.maximum(matter, np.clip(grain * plate.scale + 0.5, 0, 1))
        colour = ((0.08, 0.08, 0.08), (0.33, 0.24, 0.15))[random.integers(2)]
    opacity = np.float32(0.94) * matter
    deposit = np.dstack([*(np.float32(level) * opacity for level in colour), opacity])
    return replace(plate.layers, deposit=deposit)


KINDS: dict[str, Defect] = {
    "scratch": scratch,
    "dent": dent,
    "stain": stain,
    "missing_hole": missing_hole,
    "smeared_print": smeared_print,
    "chip": chip,
    "contamination": contamination,
}


def _somewhere(plate: Plate, random: Random, clearance: float) -> Point:
    """Pick a point of the metal, in design px, at least ``clearance`` px from every edge (less if none is that far)."""
    coarse = plate.clearance[::4, ::4]
    rows, columns = np.nonzero(coarse > min(clearance, 0.9 * float(coarse.max())))
    pick = random.integers(len(rows))
    x, y = plate.grid
    return float(x[0, 4 * columns[pick]]), float(y[4 * rows[pick], 0])


def _on_outline(random: Random) -> Point:
    """Pick a point on one of the four straight edges, clear of the rounded corners."""
    reach = np.array(BODY) - CORNER_RADIUS - 6
    side, sign, t = random.integers(2), random.choice((-1.0, 1.0)), random.uniform(-1, 1)
    if side == 0:
        return float(sign * BODY[0]), float(t * reach[1])
    x = float(t * reach[0])
    if abs(x - SLOT[0]) < SLOT[1] + 14:
        x = -x  # a chip in the open slot would bite thin air; the other half of the plate has no slot
    return x, float(sign * BODY[1])


def _turned(plate: Plate, centre: Point, angle: float) -> tuple[Plane, Plane]:
    """Move the grid to ``centre`` and turn it by ``angle`` radians: x and y, each float32 [h, w]."""
    x, y = plate.grid
    x, y = x - np.float32(centre[0]), y - np.float32(centre[1])
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine


def _blob(plate: Plate, centre: Point, radius: float, roughness: float, random: Random) -> Plane:
    """Measure from the edge of an irregular blob, in design px: positive inside, at least -`FAR`, float32 [h, w]."""
    blob = np.full(plate.shape, -FAR, np.float32)
    x, y = plate.grid
    reach = radius * (1 + 4 * roughness) + FAR
    columns = slice(*np.searchsorted(x[0], (centre[0] - reach, centre[0] + reach)))
    rows = slice(*np.searchsorted(y[:, 0], (centre[1] - reach, centre[1] + reach)))
    x, y = x[rows, columns] - np.float32(centre[0]), y[rows, columns] - np.float32(centre[1])
    angle = np.arctan2(y, x)
    edge = np.full(x.shape, radius, np.float32)
    for waves in range(2, 8):
        strength = np.clip(random.normal(), -2, 2) * roughness * radius / waves
        edge += np.float32(strength) * np.cos(waves * angle + np.float32(random.uniform(0, 2 * np.pi)))
    blob[rows, columns] = np.maximum(edge - np.hypot(x, y), -FAR)
    return blob


def _stroke(plate: Plate, x: NDArray[np.float64], y: NDArray[np.float64], width: NDArray[np.float64]) -> Plane:
    """Draw a soft line through the points with the given widths, all in design px: density float32 [h, w], 0..1."""
    h, w = plate.shape
    drawn = np.zeros((h, w), np.uint8)
    bits = 4  # cv2 takes points in 1/2**bits px
    points = np.stack([(w - 1) / 2 + x * plate.scale, (h - 1) / 2 + y * plate.scale], axis=1)
    points = np.round(points * 2**bits).astype(np.int32)
    for start, end, thick in zip(points[:-1], points[1:], width[1:], strict=True):
        thickness = max(1, round(thick * plate.scale))
        cv2.line(drawn, start.tolist(), end.tolist(), 255, thickness, cv2.LINE_AA, bits)
    density: Plane = cv2.GaussianBlur(drawn, (0, 0), 0.3 * plate.scale).astype(np.float32) / 255
    return density
