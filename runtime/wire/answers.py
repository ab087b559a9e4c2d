"""Puts one detector result into the bytes a result message carries: map and preview."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.errors import EdgeadError
from runtime.inspection import MapInfo

#: Longer side of a preview in pixels: a display needs no more and the stream stays light. Both sides are bounded,
#: because a line-scan frame is narrow and very long, and its preview must fit into the slot too.
PREVIEW_SIDE_PX = 640
PREVIEW_JPEG_QUALITY = 80
#: Largest number a float16 can say.
FLOAT16_MAX = 65504.0
_FLOAT16 = np.dtype("<f2")


def _to_float16(values: np.ndarray) -> np.ndarray:
    return values.astype(_FLOAT16)


def encode_map(
    anomaly_map: np.ndarray, encoding: str, to_float16: Callable[[np.ndarray], np.ndarray] = _to_float16
) -> tuple[MapInfo | None, bytes | np.ndarray]:
    """Encode a float32 [h, w] map as "raw" (float16), "png16" or "none"; return description and bytes.

    raw clips values to the range of float16 (the score, not the map, decides); png16 spans the map's own range.
    ``to_float16`` rounds as numpy does; a worker has a faster one.
    """
    height, width = anomaly_map.shape
    if encoding == "none":
        return None, b""
    if encoding == "raw":
        info = MapInfo(encoding="raw", dtype="float16", height=height, width=width)
        return info, to_float16(np.clip(anomaly_map, -FLOAT16_MAX, FLOAT16_MAX)).astype(_FLOAT16, copy=False)
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    scale = (high - low) / 65535 or 1.0
    # float64: the range of a float32 map can itself be beyond float32.
    pixels = np.round((anomaly_map.astype(np.float64) - low) / scale).astype(np.uint16)
    info = MapInfo(encoding="png16", dtype="uint16", height=height, width=width, scale=scale, offset=low)
    return info, _imencode(".png", pixels)


def decode_map(info: MapInfo, payload: memoryview | bytes) -> np.ndarray:
    """Return the float32 [h, w] map of a result message; ``EdgeadError`` if the payload is not what ``info`` says."""
    if info.encoding == "raw":
        expected, found = info.height * info.width * 2, memoryview(payload).nbytes
        if found != expected:
            raise EdgeadError(
                f"expected {expected} bytes for a float16 map of {info.height} x {info.width}, found {found}"
            )
        return np.frombuffer(payload, "<f2").reshape(info.height, info.width).astype(np.float32)
    import cv2

    pixels = _imdecode(payload, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape != (info.height, info.width) or pixels.dtype != np.uint16:
        raise EdgeadError(f"expected a 16-bit PNG map of {info.height} x {info.width}, found something else")
    decoded: np.ndarray = (pixels * info.scale + info.offset).astype(np.float32)
    return decoded


def encode_preview(image: np.ndarray) -> bytes:
    """Return a JPEG of a uint8 [H, W] or [H, W, 3] RGB image, its longer side at most ``PREVIEW_SIDE_PX``."""
    import cv2

    height, width = image.shape[:2]
    shrink = PREVIEW_SIDE_PX / max(height, width)
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if image.ndim == 3:  # noqa: PLR2004 - colour
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_JPEG_QUALITY])


def decode_preview(payload: memoryview | bytes) -> np.ndarray:
    """Return the uint8 RGB [H, W, 3] picture of a preview payload; ``EdgeadError`` if it is no JPEG."""
    import cv2

    picture = _imdecode(payload, cv2.IMREAD_COLOR)
    if picture is None:
        raise EdgeadError("expected a JPEG preview, found something else")
    rgb: np.ndarray = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return rgb


def _imdecode(payload: memoryview | bytes, flags: int) -> np.ndarray | None:
    import cv2

    data = np.frombuffer(payload, np.uint8)
    # OpenCV raises on no bytes where it returns None on wrong ones.
    return cv2.imdecode(data, flags) if data.size else None


def _imencode(suffix: str, image: np.ndarray, options: Any = ()) -> bytes:
    import cv2

    done, encoded = cv2.imencode(suffix, image, list(options))
    if not done:
        raise EdgeadError(f"OpenCV could not encode a {image.dtype} image of shape {image.shape} as {suffix}")
    return bytes(encoded)
