"""Extended anomalies: a few real defects, distorted, turned and pasted elsewhere (CPR specification, section 7.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.synthetic.operations import PHOTOMETRIC, distort
from calibration.synthetic.textures import as_rgb
from runtime.detector import MaskedFrame
from runtime.errors import ConfigError

Rng = np.random.Generator
#: Shares of frames that a real defect stands in for, and that defects are pasted into; pastes into one.
REAL, PASTED = 0.025, 0.2
MOST_PASTES = 5
#: A paste: shares distorted and moved, range of its size.
DISTORTED, MOVED = 0.5, 0.9
SCALE = (0.5, 1.5)
OPACITY = (0.5, 1.0)


@dataclass(frozen=True)
class Patch:
    """A defect at the working size: uint8 RGB [H, W, 3] and its mask, uint8 [H, W], 0 or 1."""

    image: np.ndarray
    mask: np.ndarray


def patches_of(defects: Sequence[MaskedFrame], size: tuple[int, int]) -> list[Patch]:
    """Bring real defects to ``size`` (H, W), images bilinear, masks nearest; ``ConfigError`` for an empty mask."""
    import cv2

    patches = []
    for defect in defects:
        image = as_rgb(defect.frame.image)
        large = (size[1], size[0])
        mask = cv2.resize(defect.mask.astype(np.uint8), large, interpolation=cv2.INTER_NEAREST)
        if not mask.any():
            raise ConfigError(
                f"expected a mask with a defect for {defect.frame.name}, found it empty at {size[1]} x {size[0]} px: "
                "leave the image out"
            )
        patches.append(Patch(np.asarray(cv2.resize(image, large, interpolation=cv2.INTER_LINEAR)), np.asarray(mask)))
    return patches


def paste_defects(
    image: np.ndarray, mask: np.ndarray, patches: Sequence[Patch], rng: Rng
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``image`` uint8 RGB [H, W, 3] with 1 to 5 pastes, and ``mask`` bool [H, W] with them."""
    image, mask = image.copy(), mask.copy()
    for _ in range(int(rng.integers(1, MOST_PASTES + 1))):
        patch = patches[int(rng.integers(len(patches)))]
        if rng.random() < DISTORTED:
            patch = Patch(distort(patch.image, rng, PHOTOMETRIC), patch.mask)
        if rng.random() < MOVED:
            patch = moved(patch, rng)
        there = patch.mask > 0
        opacity = float(rng.uniform(*OPACITY))
        blended = opacity * patch.image[there].astype(np.float32) + (1.0 - opacity) * image[there].astype(np.float32)
        image[there] = blended.astype(np.uint8)
        mask |= there
    return image, mask


def moved(patch: Patch, rng: Rng) -> Patch:
    """Turn by whole degrees about the mask's centroid, scale by 0.5 to 1.5, and shift so that its box stays inside.

    A defect whose turned box is larger than the frame is shifted as far inside as it goes.
    """
    import cv2

    height, width = patch.mask.shape
    rows, columns = np.nonzero(patch.mask)
    centre = np.array([columns.mean(), rows.mean()])
    turn = cv2.getRotationMatrix2D(
        (float(centre[0]), float(centre[1])), int(rng.integers(360)), float(rng.uniform(*SCALE))
    )
    corners = np.array([[x, y, 1] for x in (columns.min(), columns.max()) for y in (rows.min(), rows.max())]) @ turn.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    room = np.array([width - 1, height - 1]) - high
    turn[:, 2] += [rng.uniform(min(-least, most), max(-least, most)) for least, most in zip(low, room, strict=True)]
    image = cv2.warpAffine(patch.image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    mask = cv2.warpAffine(patch.mask, turn, (width, height), flags=cv2.INTER_NEAREST)
    return Patch(np.asarray(image), np.asarray(mask))
