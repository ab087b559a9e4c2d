"""The simulated part itself: a brushed bracket plate as layers, before any defect and before any camera.

Lengths here are design pixels: the size a length has in a picture whose shorter side is 320 px. ``Plate.scale`` turns
them into drawing pixels. The drawing is made at twice the size of the picture, so that averaging it down anti-aliases
every edge. Shape is kept as a height field and shaded once, so that a chamfer, an engraving and a dent all answer to
the same lamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Point = tuple[float, float]

OVERSAMPLING = 2
DESIGN_SIDE = 320
"""Shorter side, in px, of the picture in which one design pixel is one pixel."""

BODY = (128.0, 90.0)  # half width and half height of the plate
CORNER_RADIUS = 20.0
SLOT = (56.0, 9.0, 24.0)  # x, half width and depth of the open slot in the lower edge
HOLES: tuple[tuple[float, float, float], ...] = (  # x, y, radius
    (-108.0, -68.0, 9.5),
    (108.0, -68.0, 9.5),
    (-108.0, 68.0, 9.5),
    (108.0, 68.0, 9.5),
    (6.0, -66.0, 6.0),
    (6.0, 66.0, 6.0),
)
COUNTERSINK = 4.5  # width of the chamfer round each hole
BORE = (-48.0, 0.0, 29.0)
FACE_RADIUS = 47.0  # outer edge of the turned face round the bore
KNURL = (62.0, 33.0, 36.0, 8.0)  # centre x, y and half sizes of the knurled pad
PRINT_ORIGIN = (24.0, -10.0)  # left end of the first line's baseline
LAMP = (-0.42, -0.52, 0.74)  # unit vector to the lamp: upper left, above
INK = (0.10, 0.11, 0.15)


@dataclass(frozen=True)
class Layers:
    """One part as drawn, all [h, w] of the drawing (twice the picture), float32.

    ``coverage``: share of the pixel that is material, 0..1. ``height``: drawing px above the face of the plate,
    negative below it. ``ink``: density of the print, 0..1. ``film``: [h, w, 3] RGB factor on what the metal returns,
    below 1 for a stain and above 1 for bared metal, or None. ``deposit``: [h, w, 4] foreign matter as RGB already
    multiplied by its opacity, then the opacity, 0..1, or None; it hides the metal and may reach past the edge.
    """

    coverage: Plane
    height: Plane
    ink: Plane
    film: Plane | None = None
    deposit: Plane | None = None


@dataclass(frozen=True)
class Plate:
    """The design of one product: what every good part has in common.

    ``shape`` is (height, width) of the drawing in px, ``tint`` the RGB colour of the metal, ``lot`` the printed code.
    """

    shape: tuple[int, int]
    tint: tuple[float, float, float]
    lot: str

    @property
    def scale(self) -> float:
        """Drawing pixels in one design pixel."""
        return min(self.shape) / DESIGN_SIDE

    @cached_property
    def grid(self) -> tuple[Plane, Plane]:
        """X and y of every drawing pixel in design px from the centre, each float32 [h, w]."""
        h, w = self.shape
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        return (x - (w - 1) / 2) / np.float32(self.scale), (y - (h - 1) / 2) / np.float32(self.scale)

    @cached_property
    def layers(self) -> Layers:
        """The layers of a good part; shared by every drawing, so never written to."""
        x, y = self.grid
        outline = np.minimum(_rounded_box(x, y, BODY, CORNER_RADIUS), _slot(x, y))
        edges = [(outline, 3.2, 0.55)]
        for hole_x, hole_y, radius in HOLES:
            edges.append((np.hypot(x - hole_x, y - hole_y) - radius, COUNTERSINK, 0.8))
        bore = np.hypot(x - BORE[0], y - BORE[1])
        edges.append((bore - BORE[2], 2.6, 0.7))
        clearance = np.minimum.reduce([distance for distance, _, _ in edges])
        depths = [slope * (np.clip(distance, 0, width) - width) for distance, width, slope in edges]
        height = np.minimum.reduce(depths)
        height -= 1.3 * _step(FACE_RADIUS - bore, 1.6)
        height -= _engraving(x, y) + _knurl(x, y)
        return Layers(
            coverage=np.clip(clearance * self.scale + 0.5, 0, 1).astype(np.float32),
            height=cv2.GaussianBlur((height * self.scale).astype(np.float32), (0, 0), 0.45 * self.scale),
            ink=self._print(),
        )

    @cached_property
    def clearance(self) -> Plane:
        """Distance in design px from every drawing pixel to the nearest edge of the material, float32 [h, w]."""
        solid = (self.layers.coverage + 0.5).astype(np.uint8)  # rounds half-covered pixels
        distance: Plane = cv2.distanceTransform(solid, cv2.DIST_L2, 5) / np.float32(self.scale)
        return distance

    @cached_property
    def shading(self) -> Plane:
        """Shading of the good part's height field, float32 [h, w]."""
        return shade(self.layers.height)

    @cached_property
    def sheen(self) -> Plane:
        """How the finish returns the lamp when the height is level, float32 [h, w], about 1.

        Brushing spreads the highlight into a band across the strokes; turning spreads it into two opposite sectors.
        """
        x, y = self.grid
        band = 0.90 + 0.20 * np.exp(-(((y + 0.22 * x + 26) / 62) ** 2))
        turn = np.arctan2(y - BORE[1], x - BORE[0])
        sectors = 0.66 + 0.62 * np.abs(np.cos(turn - 0.75)) ** 6
        sheen: Plane = np.where(self._on_face, sectors, band).astype(np.float32)
        return sheen

    @cached_property
    def _on_face(self) -> NDArray[np.bool_]:
        x, y = self.grid
        on_face: NDArray[np.bool_] = np.hypot(x - BORE[0], y - BORE[1]) < FACE_RADIUS
        return on_face

    @cached_property
    def _turning(self) -> NDArray[np.intp]:
        """Number of the turning mark under every drawing pixel of the face: one mark per drawing pixel of radius."""
        x, y = self.grid
        radius = np.hypot(x - BORE[0], y - BORE[1])[self._on_face]
        turning: NDArray[np.intp] = (radius * self.scale).astype(np.intp)
        return turning

    def finish(self, random: np.random.Generator) -> Plane:
        """Draw one part's tool marks, a factor about 1, float32 [h, w]: brushed along x, turned on the bore's face."""
        h, w = self.shape
        marks = np.ones((h, w), np.float32)
        # Strokes of three lengths: noise that is coarse along x only, stretched to the full width.
        for columns, strength in ((4, 0.030), (w // 40, 0.034), (w // 8, 0.030)):
            grains = random.standard_normal((h, columns), dtype=np.float32)
            marks += strength * cv2.resize(grains, (w, h), interpolation=cv2.INTER_LINEAR)
        rings = random.standard_normal(int(FACE_RADIUS * self.scale) + 2, dtype=np.float32)
        rings = np.convolve(rings, np.array((0.3, 0.5, 0.3), np.float32), mode="same")
        marks[self._on_face] = 1 + 0.5 * (marks[self._on_face] - 1) + 0.075 * rings[self._turning]
        return marks

    def _print(self) -> Plane:
        """Print the legend as ink density, float32 [h, w], 0..1: product mark, part number and lot code."""
        h, w = self.shape
        ink = np.zeros((h, w), np.uint8)

        def at(x: float, y: float) -> tuple[int, int]:
            return round(w / 2 + x * self.scale), round(h / 2 + y * self.scale)

        def line(text: str, x: float, y: float, width: float, stroke: float) -> None:
            # Fitted to a width: OpenCV 5 draws another face than OpenCV 4 under the same name and size.
            thickness = max(1, round(stroke * self.scale))
            (natural, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
            size = width * self.scale / natural
            cv2.putText(ink, text, at(x, y), cv2.FONT_HERSHEY_SIMPLEX, size, 255, thickness, cv2.LINE_AA)

        x, y = PRINT_ORIGIN
        mark = np.array([at(x, y - 15), at(x + 12, y - 15), at(x + 6, y - 26)], np.int32)
        cv2.fillPoly(ink, [mark], 255, cv2.LINE_AA)
        line("EAD 320", x + 17, y - 15, 48, 1.4)
        line("BRACKET L", x, y + 1, 60, 1.1)
        line(self.lot, x, y + 17, 73, 1.3)
        density: Plane = cv2.GaussianBlur(ink, (0, 0), 0.35 * self.scale).astype(np.float32) / 255
        return density


def shade(height: Plane) -> Plane:
    """Shade a height field [h, w] under the lamp, relative to a level surface (1.0): float32 [h, w]."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    facing = np.clip((LAMP[2] - LAMP[0] * slope_x - LAMP[1] * slope_y) / (length * LAMP[2]), 0, None)
    # Metal is not matt: a surface turned to the lamp gains more than the cosine, one turned away loses more.
    shading: Plane = 0.22 + 0.38 * facing + 0.40 * facing**3
    return shading


def _rounded_box(x: Plane, y: Plane, half: Point, radius: float) -> Plane:
    """Measure the distance to the edge of a rounded rectangle about the origin, positive inside."""
    over_x, over_y = np.abs(x) - (half[0] - radius), np.abs(y) - (half[1] - radius)
    outside = np.hypot(np.maximum(over_x, 0), np.maximum(over_y, 0))
    return np.asarray(radius - outside - np.minimum(np.maximum(over_x, over_y), 0), np.float32)


def _slot(x: Plane, y: Plane) -> Plane:
    """Measure the distance to the open slot in the lower edge, positive outside the slot."""
    centre, half, depth = SLOT
    below = np.maximum(BODY[1] - depth + half - y, 0)
    distance: Plane = np.hypot(x - centre, below) - np.float32(half)
    return distance


def _step(distance: Plane, width: float) -> Plane:
    """Rise smoothly from 0 where ``distance`` is negative to 1 past ``width``."""
    t: Plane = np.clip(distance / np.float32(width), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _engraving(x: Plane, y: Plane) -> Plane:
    """Engrave the frame round the print and the centre line left of the bore: depth in design px."""
    frame = np.abs(_rounded_box(x - 62, y + 14, (46.0, 31.0), 7.0))
    tick = np.maximum(np.abs(y), np.abs(x + 108) - 9)
    depth: Plane = 0.9 * np.exp(-((np.minimum(frame, np.maximum(tick, 0)) / 0.9) ** 2))
    return depth


def _knurl(x: Plane, y: Plane) -> Plane:
    """Knurl the pad in diamonds: depth in design px, 0 outside the pad."""
    centre_x, centre_y, half_x, half_y = KNURL
    pad = np.minimum(half_x - np.abs(x - centre_x), half_y - np.abs(y - centre_y))
    pitch = np.float32(np.pi / 6.5)
    waves = np.abs(np.sin((x + y) * pitch)) * np.abs(np.sin((x - y) * pitch))
    depth: Plane = _step(pad, 1.5) * (1.1 - 1.0 * waves)
    return depth
