"""Pictures for the pages that calibration writes: small, and as JPEG."""

from __future__ import annotations

import numpy as np

#: JPEG quality, 0..100.
QUALITY = 85


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """Return a uint8 image, [H, W] or [H, W, 3], whose longest side is ``longest`` px at most."""
    import cv2

    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def jpeg(image: np.ndarray) -> bytes:
    """Return a uint8 image, [H, W] or RGB [H, W, 3], as JPEG."""
    import cv2

    stored = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, ::-1])  # noqa: PLR2004 - OpenCV wants BGR
    data: bytes = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return data
