"""Puts one detector result into the bytes a result message carries: map and preview."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.errors import EdgeadError
from runtime.inspection import MapInfo

#: Widest preview in pixels; a display needs no more and the stream stays light.
PREVIEW_WIDTH_PX = 640
PREVIEW_JPEG_QUALITY = 80


def encode_map(anomaly_map: np.ndarray, encoding: str) -> tuple[MapInfo | None, bytes | np.ndarray]:
    """Encode a float32 [h, w] map as "raw" (float16), "png16" or "none"; return its description and the bytes.

    Values beyond the float16 range are clipped to it (the score, not the map, decides); png16 spans the map's own range.
    """
    height, width = anomaly_map.shape
    if encoding == "none":
        return None, b""
    if encoding == "raw":
        limit = float(np.finfo(np.float16).max)
        info = MapInfo(encoding="raw", dtype="float16", height=height, width=width)
        return info, np.clip(anomaly_map, -limit, limit).astype("<f2")
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    scale = (high - low) / 65535 or 1.0
    pixels = np.round((anomaly_map - low) / scale).astype(np.uint16)
    info = MapInfo(encoding="png16", dtype="uint16", height=height, width=width, scale=scale, offset=low)
    return info, _imencode(".png", pixels)


def decode_map(info: MapInfo, payload: memoryview | bytes) -> np.ndarray:
    """Return the float32 [h, w] map of a result message; ``EdgeadError`` if the payload is not what ``info`` says."""
    if info.encoding == "raw":
        return np.frombuffer(payload, "<f2").reshape(info.height, info.width).astype(np.float32)
    import cv2

    pixels = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape != (info.height, info.width) or pixels.dtype != np.uint16:
        raise EdgeadError(f"expected a 16-bit PNG map of {info.height} x {info.width}, found something else")
    decoded: np.ndarray = pixels.astype(np.float32) * np.float32(info.scale) + np.float32(info.offset)
    return decoded


def encode_preview(image: np.ndarray) -> bytes:
    """Return a JPEG of a uint8 [H, W] or [H, W, 3] RGB image, at most ``PREVIEW_WIDTH_PX`` wide."""
    import cv2

    height, width = image.shape[:2]
    if width > PREVIEW_WIDTH_PX:
        size = (PREVIEW_WIDTH_PX, max(1, round(height * PREVIEW_WIDTH_PX / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if image.ndim == 3:  # noqa: PLR2004 - colour
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_JPEG_QUALITY])


def decode_preview(payload: memoryview | bytes) -> np.ndarray:
    """Return the uint8 RGB [H, W, 3] picture of a preview payload; ``EdgeadError`` if it is no JPEG."""
    import cv2

    picture = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise EdgeadError("expected a JPEG preview, found something else")
    rgb: np.ndarray = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return rgb


def _imencode(suffix: str, image: np.ndarray, options: Any = ()) -> bytes:
    import cv2

    done, encoded = cv2.imencode(suffix, image, list(options))
    if not done:
        raise EdgeadError(f"OpenCV could not encode a {image.dtype} image of shape {image.shape} as {suffix}")
    return bytes(encoded)
