"""The inspection bench: belt, lamp and camera that turn the layers of a part into a picture.

Everything that differs between two good pictures is decided here and bounded by a named constant. A picture and its
clean twin are taken with the same `Shot`, so they differ by the defect and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.testing.plate import INK, OVERSAMPLING, Layers, Plane, Plate, shade

ROTATION_DEG = 2.0
SHIFT_PX = 4.0
"""Largest shift along x and along y, in design px (px of a picture whose shorter side is 320)."""
SCALING = 0.015
GAIN = 0.06
GRADIENT = 0.07
"""Largest change of light from the centre of the picture to its edge, as a fraction."""

BELT = (0.118, 0.128, 0.132)  # RGB of the conveyor, dark and slightly cold


@dataclass(frozen=True)
class Pose:
    """How the part lies: rotation in degrees counter-clockwise, shift in design px (x right, y down), scale about 1."""

    rotation_deg: float
    shift_x: float
    shift_y: float
    scale: float


@dataclass(frozen=True)
class Lighting:
    """How the part is lit: gain about 1, and a linear gradient (fraction at the edge) towards ``direction_deg``."""

    gain: float
    gradient: float
    direction_deg: float


@dataclass(frozen=True)
class Shot:
    """Everything random about one picture; float32 ``finish`` [2H, 2W], ``belt`` [H, W] and ``noise`` [H, W, 3]."""

    pose: Pose
    lighting: Lighting
    finish: Plane
    belt: Plane
    noise: Plane


def choose_pose(random: np.random.Generator) -> Pose:
    """Choose one pose, uniform within the stated bounds."""
    rotation, x, y, scale = random.uniform(-1, 1, 4)
    return Pose(float(rotation * ROTATION_DEG), float(x * SHIFT_PX), float(y * SHIFT_PX), float(1 + scale * SCALING))


def choose_lighting(random: np.random.Generator) -> Lighting:
    """Choose one lighting, uniform within the stated bounds."""
    gain, gradient, direction = random.uniform(-1, 1, 3)
    return Lighting(float(1 + gain * GAIN), float(abs(gradient) * GRADIENT), float(180 * direction))


def weave_belt(random: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Weave the stretch of belt under one part, a factor about 1, float32 [H, W]: fabric, wear and dust."""
    h, w = shape
    phase_x, phase_y = random.uniform(0, 2 * np.pi, 2)
    x = np.sin(np.arange(w, dtype=np.float32) * np.float32(1.9) + np.float32(phase_x))
    y = np.sin(np.arange(h, dtype=np.float32) * np.float32(1.9) + np.float32(phase_y))
    belt = 1 + 0.16 * y[:, None] * x[None, :]
    wear = random.standard_normal((h // 16 + 1, w // 32 + 1), dtype=np.float32)
    belt += 0.07 * cv2.resize(wear, (w, h), interpolation=cv2.INTER_CUBIC)
    belt += 0.13 * random.standard_normal((h, w), dtype=np.float32)
    woven: Plane = cv2.GaussianBlur(belt.astype(np.float32), (0, 0), 0.6)
    return woven


def photograph(plate: Plate, layers: Layers, shot: Shot) -> NDArray[np.uint8]:
    """Take the picture of ``layers`` with ``shot``: uint8 [H, W, 3] RGB, half the size of the layers."""
    part = _place(plate, _surface(plate, layers, shot.finish), shot.pose)
    if layers.deposit is not None:
        # Foreign matter lies on top, moves with the part and throws a small shadow on it.
        deposit = _place(plate, layers.deposit, shot.pose)
    opacity = part[..., 3:]
    picture = _belt_under(opacity[..., 0], shot.belt, plate) * (1 - opacity) + part[..., :3]
    if layers.deposit is not None:
        picture *= 1 - 0.35 * _shadow(deposit[..., 3], 1.2, 1.0)[..., None]
        picture = picture * (1 - deposit[..., 3:]) + deposit[..., :3]
    picture *= _light(shot.lighting, picture.shape[:2])[..., None]
    picture = cv2.GaussianBlur(picture, (0, 0), 0.55)
    # Shot noise grows with the light, read noise does not: about 1.3 levels in the dark and 2.4 on bright metal.
    picture += shot.noise * np.sqrt(2.6e-5 + 9.0e-5 * np.clip(picture, 0, 1))
    levels: NDArray[np.uint8] = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    return levels


def _surface(plate: Plate, layers: Layers, finish: Plane) -> Plane:
    """Light the part: RGB multiplied by coverage, then coverage; float32 [2H, 2W, 4]."""
    clean = layers.height is plate.layers.height
    light = (plate.shading if clean else shade(layers.height)) * plate.sheen * finish
    density = layers.ink * np.float32(0.88)
    inked = density * layers.coverage
    bare = light * (layers.coverage - inked)
    inked *= light * np.float32(0.4) + np.float32(0.6)  # ink shows the shading of the metal only in part
    planes = [bare * np.float32(metal) + inked * np.float32(ink) for metal, ink in zip(plate.tint, INK, strict=True)]
    if layers.film is not None:
        planes = [plane * layers.film[..., channel] for channel, plane in enumerate(planes)]
    surface: Plane = cv2.merge([*planes, layers.coverage])
    return surface


def _place(plate: Plate, drawing: Plane, pose: Pose) -> Plane:
    """Turn, scale and shift a drawing [2H, 2W, C] and average it down to the picture's [H, W, C]."""
    h, w = plate.shape
    turn = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), pose.rotation_deg, pose.scale)
    turn[:, 2] += np.array([pose.shift_x, pose.shift_y]) * plate.scale
    turned = cv2.warpAffine(drawing, turn, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    placed: Plane = cv2.resize(turned, (w // OVERSAMPLING, h // OVERSAMPLING), interpolation=cv2.INTER_AREA)
    return placed


def _belt_under(opacity: Plane, belt: Plane, plate: Plate) -> Plane:
    """Colour the belt and throw the part's shadow on it, float32 [H, W, 3]."""
    unit = plate.scale / OVERSAMPLING
    shadow = _shadow(opacity, 5.0 * unit, 5.0 * unit)
    lit = belt * (1 - 0.72 * shadow)
    return np.dstack([np.float32(colour) * lit for colour in BELT])


def _shadow(opacity: Plane, offset: float, softness: float) -> Plane:
    """Cast the shadow of something opaque ``offset`` px away from the lamp: share of light hidden, float32 [H, W]."""
    away = np.array([[1, 0, 0.75 * offset], [0, 1, offset]], np.float32)
    moved = cv2.warpAffine(opacity, away, opacity.shape[::-1], flags=cv2.INTER_LINEAR)
    shadow: Plane = cv2.GaussianBlur(moved, (0, 0), softness)
    return shadow


def _light(lighting: Lighting, shape: tuple[int, ...]) -> Plane:
    """Multiply gain, gradient and the lens's fall-off towards the corners into one factor, float32 [H, W]."""
    h, w = shape
    x = np.linspace(-1, 1, w, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    angle = np.deg2rad(lighting.direction_deg)
    slope = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    fall_off = 1 - 0.05 * (x * x + y * y)
    return np.asarray(lighting.gain * (1 + lighting.gradient * slope) * fall_off, np.float32)
