"""One real defect, varied and laid onto the part of a good frame (PRN specification, section 8.1-2 and 3)."""

from __future__ import annotations

import numpy as np

from calibration.synthetic.extended import Patch
from calibration.synthetic.joint import vary
from calibration.synthetic.perlin import ON_PART

Rng = np.random.Generator
#: Share of a defect that must lie on the part for it to stay where it was.
STAYS = 2 / 3


def place_defect(
    image: np.ndarray, patches: list[Patch], rng: Rng, foreground: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``image`` uint8 RGB [H, W, 3] with one of ``patches`` pasted in hard, and its mask bool [H, W].

    ``foreground`` float32 [H, W], 0..1: where the part is; None: everywhere, and the defect stays where it was.
    """
    patch = patches[int(rng.integers(len(patches)))]
    material, mask = vary(patch.image, patch.mask, rng)
    there = mask > 0
    if foreground is None or (foreground[there] > ON_PART).mean() > STAYS:
        return _pasted(image, material, there)
    return _scattered(image, material, mask, foreground > ON_PART, rng) or _pasted(image, material, there)


def _pasted(image: np.ndarray, material: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = image.copy()
    image[there] = material[there]
    return image, there


def _scattered(
    image: np.ndarray, material: np.ndarray, mask: np.ndarray, part: np.ndarray, rng: Rng
) -> tuple[np.ndarray, np.ndarray] | None:
    """Move every connected piece of the defect to a centre of its own on the part; None where there is no room."""
    import cv2

    count, labels, boxes, centroids = cv2.connectedComponentsWithStats(mask, connectivity=8)
    height, width = mask.shape
    half_h = int(boxes[1:, cv2.CC_STAT_HEIGHT].max()) // 2
    half_w = int(boxes[1:, cv2.CC_STAT_WIDTH].max()) // 2
    rows, columns = np.nonzero(part)
    inside = (rows >= half_h) & (rows < height - half_h) & (columns >= half_w) & (columns < width - half_w)
    rows, columns = rows[inside], columns[inside]
    if not len(rows):
        return None
    image, there = image.copy(), np.zeros(mask.shape, bool)
    for piece in range(1, count):
        at = int(rng.integers(len(rows)))
        y, x = np.nonzero(labels == piece)
        down, across = y + rows[at] - round(centroids[piece][1]), x + columns[at] - round(centroids[piece][0])
        stays = (down >= 0) & (down < height) & (across >= 0) & (across < width)
        image[down[stays], across[stays]] = material[y[stays], x[stays]]
        there[down[stays], across[stays]] = True
    return image, there
