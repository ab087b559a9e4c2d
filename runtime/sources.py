"""Where a camera process gets its images: a folder to replay, or what OpenCV opens (device, video file, RTSP URL)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import ConfigError
from runtime.images import list_images, read_image

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Acquired:
    """One image from a source. ``image`` uint8 [H, W] or [H, W, 3] RGB; ``source`` as in ``FrameHeader``."""

    image: np.ndarray
    acquired_ns: int
    source: str = ""


def folder_images(folder: Path, *, loop: bool = False) -> Iterator[Acquired]:
    """Replay the images of ``folder`` and the folders below it, folder by folder in natural order of the names.

    ``source`` is the path relative to ``folder``. Raises ``ConfigError`` for no image, or one that cannot be decoded.
    """
    paths = images_below(folder)
    while True:
        for path in paths:
            yield Acquired(read_image(path), time.time_ns(), path.relative_to(folder).as_posix())
        if not loop:
            return


def images_below(folder: Path) -> list[Path]:
    """Return every image in ``folder`` and below it, hidden ones aside; ``ConfigError`` if there is none."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder of images, found nothing there")
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir() and not path.name.startswith("."))]
    paths = [image for each in folders for image in list_images(each)]
    if not paths:
        raise ConfigError(f"{folder}: expected images (png, jpg, bmp, tif) in it or below it, found none")
    return paths


def video_images(source: str | int, *, loop: bool = False) -> Iterator[Acquired]:
    """Read images from an OpenCV device number, video file or stream URL until it ends; colour comes as RGB.

    ``loop``: open it again when it ends. Raises ``ConfigError`` when it does not open or gives no image at all.
    """
    import cv2

    while True:
        capture = cv2.VideoCapture(source)
        try:
            got, picture = capture.read()
            if not got:
                raise ConfigError(
                    f"expected a camera device number, video file or stream URL that OpenCV reads, found {source!r}: "
                    "is it connected, readable and of a format OpenCV knows?"
                )
            while got:
                image = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # noqa: PLR2004 - grey
                yield Acquired(image, time.time_ns())
                got, picture = capture.read()
        finally:
            capture.release()
        if not loop:
            return


def open_source(source: str, *, loop: bool = False) -> Iterator[Acquired]:
    """Open what ``source`` names: a folder, a device number, a video file or a URL with ``://``.

    ``loop`` repeats a folder or a video file for ever. Raises ``ConfigError``, some of it only at the first image.
    """
    path = Path(source)
    is_live = source.isdecimal() or "://" in source
    if loop and is_live:
        raise ConfigError(f"expected a folder or a video file to repeat with --loop, found {source}: leave --loop out")
    if is_live:
        return video_images(int(source) if source.isdecimal() else source)
    if path.is_dir():
        return folder_images(path, loop=loop)
    if path.is_file():
        return video_images(source, loop=loop)
    raise ConfigError(
        f"{source}: expected a folder of images, a video file, a device number or a stream URL, found nothing there"
    )
