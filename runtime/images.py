"""Image files and pictures: arrays in, arrays out.

One rule for every reader in the project: uint8, [H, W] for a grey file, [H, W, 3] in RGB order for a colour file.
OpenCV is imported inside the functions that need it, so that a process which only lists files stays light.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import numpy as np

from runtime.errors import ConfigError, EdgeadError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# Opacity of the colour map where the anomaly map reaches the top of its scale: the part must stay visible under it.
_PEAK_OPACITY = 0.6
# The contour is one pixel wide per this many pixels of the frame's shorter side: readable on 256 and on 4096 pixels.
_CONTOUR_SIDE_PX = 300
_GREY_AXES = 2  # [H, W]
_COLOUR_AXES = 3  # [H, W, 3]
_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``part2`` before ``part10`` and ignores case; names equal so far fall back to themselves."""
    parts = tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(name.casefold()) if part
    )
    return (*parts, (2, 0, name))


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly in ``folder``, by suffix (any case), in natural order of their names.

    Hidden files and sub-folders are left out. Raises ConfigError when the folder cannot be listed.
    """
    folder = Path(folder)
    try:
        entries = [entry for entry in folder.iterdir() if entry.is_file()]
    except OSError as error:
        raise ConfigError(
            f"expected a folder of images at {folder}, found none that can be read ({error.strerror}): "
            "give the path of an existing folder"
        ) from error
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")]
    return sorted(images, key=lambda path: natural_key(path.name))


def read_image(path: Path) -> np.ndarray:
    """Read one image file as uint8, [H, W] for a grey file or [H, W, 3] RGB for a colour file, range 0..255.

    As ``read_stored``, with 16-bit values v brought to 8 bits as round(v / 257).
    """
    image = read_stored(path)
    if image.dtype == np.uint16:
        # Exact rounding of v / 257: 257 is odd, so there is no half to break.
        return np.asarray((image.astype(np.uint32) + 128) // 257, dtype=np.uint8)
    return image


def read_stored(path: Path) -> np.ndarray:
    """Read one image file at its own depth, uint8 or uint16: [H, W] for a grey file, [H, W, 3] RGB for a colour file.

    A colour file whose channels are equal stays three-channel. Alpha is dropped. EXIF orientation is NOT applied: a
    camera on a line has one orientation, and masks are drawn on the stored pixels. (TIFF is the exception OpenCV makes:
    its own orientation tag is applied, transparency darkens the colours, and only the first page is read.) Raises
    ConfigError, naming the path, when the file cannot be read or decoded.
    """
    import cv2

    path = Path(path)
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        # Bytes first, then decode: cv2.imread cannot open every path that Python can, and reports nothing.
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)
    except OSError as error:
        raise ConfigError(
            f"expected an image file at {path}, but it cannot be read ({error.strerror}): check the path and its rights"
        ) from error
    except cv2.error as error:  # an empty file, or more pixels than OpenCV agrees to decode
        raise ConfigError(_undecodable(path)) from error
    if image is None:
        raise ConfigError(_undecodable(path))
    if image.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        raise ConfigError(
            f"expected 8 or 16 bits per channel in {path}, found {image.dtype}: convert the file to 8 or 16 bits"
        )
    return np.ascontiguousarray(image[:, :, ::-1] if image.ndim == _COLOUR_AXES else image)


def _undecodable(path: Path) -> str:
    return (
        f"expected a whole image in {path}, found bytes that do not decode: "
        "the file is damaged, cut short or of another format; replace it or take it out of the folder"
    )


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 RGB [H, W, 3], uint8 grey [H, W] or uint16 grey [H, W] as PNG, whole or not at all.

    The bytes go to a hidden file beside ``path`` which then takes its name: readers see the old file or the new one,
    never part of one. Not forced to disk: after a power cut the picture may be missing. Raises EdgeadError for another
    dtype or shape, ConfigError when the folder cannot be written.
    """
    import cv2

    path = Path(path)
    is_colour = image.ndim == _COLOUR_AXES and image.shape[2] == 3 and image.dtype == np.uint8  # noqa: PLR2004 - R, G, B
    is_grey = image.ndim == _GREY_AXES and image.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}
    if not (is_colour or is_grey) or image.size == 0:
        raise EdgeadError(
            f"expected uint8 [H, W] or [H, W, 3], or uint16 [H, W], to write {path.name}, "
            f"found {image.dtype} {list(image.shape)}"
        )
    _, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1] if is_colour else image))
    draft = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        try:
            draft.write_bytes(data.tobytes())
            os.replace(draft, path)  # noqa: PTH105 - the name says what it does to an existing file
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write the picture {path}: {error.strerror}; check the folder and its rights"
        ) from error


def overlay(image: np.ndarray, anomaly_map: np.ndarray, pixel_threshold: float, scale_max: float) -> np.ndarray:
    """Draw an anomaly map and the contour of its defect mask on the frame; returns uint8 RGB [H, W, 3].

    ``image``: uint8 [H, W] or RGB [H, W, 3]. ``anomaly_map``: any float dtype, [h, w] of any size, higher is more
    anomalous; it is resized (bilinear) to the frame. Colour and opacity rise with map / ``scale_max``, from clear at 0
    to the peak colour at ``scale_max`` and above. The contour (white on black) surrounds map > ``pixel_threshold``.
    Raises EdgeadError for a map with non-finite values, another shape, or a ``scale_max`` that is not positive.
    """
    import cv2

    if anomaly_map.ndim != _GREY_AXES or anomaly_map.size == 0 or not np.isfinite(anomaly_map).all():
        raise EdgeadError(
            f"expected a finite anomaly map [h, w] to draw, found {anomaly_map.dtype} {list(anomaly_map.shape)} "
            "with another shape or with NaN or infinity in it: the inspection it belongs to is not decidable"
        )
    if not 0 < scale_max < np.inf:
        raise EdgeadError(f"expected a positive, finite scale_max for the overlay, found {scale_max}")
    frame = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == _GREY_AXES else image
    height, width = frame.shape[:2]
    source = anomaly_map.astype(np.float32)
    resized = cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
    level = np.clip(resized / np.float32(scale_max), 0, 1)
    colour = cv2.applyColorMap(np.rint(level * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    opacity = (_PEAK_OPACITY * level)[:, :, None]
    picture: np.ndarray = np.rint(frame * (1 - opacity) + colour * opacity).astype(np.uint8)
    mask = resized > pixel_threshold
    if not mask.any():
        # Bilinear resize can lower a narrow peak past the threshold; a rejected part must not look clean.
        mask = cv2.resize((source > pixel_threshold).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    line_px = max(1, round(min(height, width) / _CONTOUR_SIDE_PX))
    cv2.drawContours(picture, contours, -1, (0, 0, 0), line_px + 2)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), line_px)
    return picture
