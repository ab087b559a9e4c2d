"""Ten ways to vary a defect together with its mask (PRN specification, section 8.1-1).

uint8 RGB [H, W, 3] and mask uint8 [H, W], 0 or 1, in and out, in the same size; three of the ten are drawn each time,
and most of them happen with a probability of their own. Images are read bilinearly and masks by nearest neighbour;
where a picture ends, its mirror image goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calibration.synthetic.operations import brightness, hue_saturation, sharpness

Rng = np.random.Generator
Pair = tuple[np.ndarray, np.ndarray]
#: Operations a defect goes through.
DRAWN = 3
#: Shares of the frame's sides, of size and of a turn that "move" varies by.
SHIFT, SIZE, TURN_DEG = 0.0625, 0.2, 45.0
#: Largest coefficient of the lens; cells of a warped grid, and how far its nodes move, in cells.
LENS, CELLS, JITTER = 1.0, 5, 0.3


def vary(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Return image and mask after three of the ten operations; as they were where nothing of the mask is left."""
    varied: Pair = image, mask
    for which in rng.permutation(len(OPERATIONS))[:DRAWN]:
        share, operation = OPERATIONS[int(which)]
        if rng.random() < share:
            varied = operation(*varied, rng)
    return varied if varied[1].any() else (image, mask)


def turn(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Turn by quarters; frames that are not square by half a turn only."""
    quarters = int(rng.integers(1, 4)) if image.shape[0] == image.shape[1] else 2
    return _whole(np.rot90(image, quarters), np.rot90(mask, quarters))


def flip(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Mirror top and bottom, left and right, or both."""
    axes = ((0,), (1,), (0, 1))[int(rng.integers(3))]
    return _whole(np.flip(image, axes), np.flip(mask, axes))


def transpose(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Swap rows and columns of square frames; others are mirrored."""
    if image.shape[0] != image.shape[1]:
        return flip(image, mask, rng)
    return _whole(image.swapaxes(0, 1), mask.T)


def lens(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Look through a lens that bends by up to ``LENS`` either way."""
    import cv2

    height, width = mask.shape
    bend = float(rng.uniform(-LENS, LENS))
    camera = np.array([[width, 0, width / 2], [0, height, height / 2], [0, 0, 1]], np.float32)
    bends = np.array([bend, bend, 0, 0, 0], np.float32)
    across, down = cv2.initUndistortRectifyMap(camera, bends, np.eye(3), camera, (width, height), cv2.CV_32FC1)
    return _read(image, mask, np.asarray(across), np.asarray(down))


def noise(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Add Gaussian noise of variance 10 to 50."""
    grain = rng.normal(0.0, float(np.sqrt(rng.uniform(10.0, 50.0))), image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8), mask


def blur(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Blur along a line of 3 to 7 pixels, or take the median or the mean of 3 x 3."""
    import cv2

    kind = rng.random()
    if kind < 0.5:  # noqa: PLR2004 - motion counts two of four
        length = 2 * int(rng.integers(1, 4)) + 1
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1.0 / length
        kernel = kernel if rng.random() < 0.5 else kernel.T  # noqa: PLR2004 - a coin
        return np.asarray(cv2.filter2D(image, -1, kernel), np.uint8), mask
    blurred = cv2.medianBlur(image, 3) if kind < 0.75 else cv2.blur(image, (3, 3))  # noqa: PLR2004 - a quarter each
    return np.asarray(blurred, np.uint8), mask


def move(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Shift, scale and turn a little, about the middle."""
    import cv2

    height, width = mask.shape
    degrees, size = float(rng.uniform(-TURN_DEG, TURN_DEG)), float(rng.uniform(1 - SIZE, 1 + SIZE))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, size)
    matrix[:, 2] += rng.uniform(-SHIFT, SHIFT, 2) * (width, height)
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    left = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)
    return np.asarray(moved, np.uint8), np.asarray(left, np.uint8)


def warp(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Bend through a lens, or move the nodes of a grid: by rows and columns, or each by itself."""
    import cv2

    kind = rng.random()
    if kind < 0.6:  # noqa: PLR2004 - the lens counts 0.3 of 0.5
        return lens(image, mask, rng)
    height, width = mask.shape
    shape = (CELLS + 1, CELLS + 1)
    rows, columns = (rng.uniform(-JITTER, JITTER, shape).astype(np.float32) for _ in range(2))
    if kind < 0.8:  # noqa: PLR2004 - half of the rest
        rows, columns = np.broadcast_to(rows[:, :1], shape), np.broadcast_to(columns[:1], shape)
    down, across = np.mgrid[:height, :width].astype(np.float32)
    down += cv2.resize(np.ascontiguousarray(rows), (width, height)) * (height / CELLS)
    across += cv2.resize(np.ascontiguousarray(columns), (width, height)) * (width / CELLS)
    return _read(image, mask, across, down)


def tone(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Equalise locally, sharpen, emboss, or change brightness and contrast."""
    import cv2

    kind = int(rng.integers(4))
    if kind == 0:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[:, :, 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(np.ascontiguousarray(lab[:, :, 0]))
        return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8), mask
    if kind == 1:
        kernel = np.array([[-1, -1, 0], [-1, 1, 1], [0, 1, 1]], np.float32)
        return np.asarray(cv2.filter2D(image, -1, kernel), np.uint8), mask
    return (sharpness if kind == 2 else brightness)(image, rng), mask  # noqa: PLR2004 - the third of four


def colour(image: np.ndarray, mask: np.ndarray, rng: Rng) -> Pair:
    """Change hue and saturation."""
    return hue_saturation(image, rng), mask


#: How often each of the ten happens once it is drawn.
OPERATIONS: tuple[tuple[float, Callable[[np.ndarray, np.ndarray, Rng], Pair]], ...] = (
    (0.5, turn), (0.5, flip), (0.5, transpose), (1.0, lens), (0.2, noise),
    (0.2, blur), (0.2, move), (0.2, warp), (0.3, tone), (0.3, colour),
)  # fmt: skip


def _whole(image: np.ndarray, mask: np.ndarray) -> Pair:
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _read(image: np.ndarray, mask: np.ndarray, across: np.ndarray, down: np.ndarray) -> Pair:
    import cv2

    read = cv2.remap(image, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    left = cv2.remap(mask, across, down, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(read, np.uint8), np.asarray(left, np.uint8)
