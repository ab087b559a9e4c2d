"""Where a camera process gets its images: a folder to replay, or what OpenCV opens (device, video file, RTSP URL)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import ConfigError, StationError
from runtime.images import list_images, natural_key, read_image

if TYPE_CHECKING:
    import cv2
    import numpy as np

#: Tells whether the next frame may go now. A live source asks it once for every picture its camera takes.
Due = Callable[[], bool]


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
    """Return every image in ``folder`` and below it, folders and files in natural order of their names.

    What is hidden, or below a hidden folder, is left out. Raises ``ConfigError`` if there is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder of images, found nothing there")
    below = {path: path.relative_to(folder).parts for path in folder.rglob("*") if path.is_dir()}
    seen = [path for path, names in below.items() if not any(name.startswith(".") for name in names)]
    seen.sort(key=lambda path: [natural_key(name) for name in below[path]])
    paths = [image for each in (folder, *seen) for image in list_images(each)]
    if not paths:
        raise ConfigError(f"{folder}: expected images (png, jpg, bmp, tif) in it or below it, found none")
    return paths


def video_images(path: str, *, loop: bool = False) -> Iterator[Acquired]:
    """Read the images of a video file to its end; colour comes as RGB.

    ``source`` is the file's name and the picture's number in it, from 0: ``clip.mp4#12``. ``loop``: open it again when
    it ends. Raises ``ConfigError`` when it does not open or gives no image at all.
    """
    name = Path(path).name
    while True:
        capture = _open(path)
        try:
            got, picture = capture.read()
            if not got:
                raise _unreadable(path)
            number = 0
            while got:
                yield Acquired(_rgb(picture), time.time_ns(), f"{name}#{number}")
                got, picture = capture.read()
                number += 1
        finally:
            capture.release()
        if not loop:
            return


def live_images(source: str | int, due: Due = lambda: True) -> Iterator[Acquired]:
    """Take every picture of an OpenCV device number or stream URL as it comes, and yield those that are ``due``.

    Pictures that are not due are taken and left undecoded: waiting instead would fill the driver's queue, and what is
    sent would be older with every frame. ``acquired_ns`` is when the picture was taken from the driver; colour comes as
    RGB. Never ends by itself: raises ``ConfigError`` when the source gives no picture at all, ``StationError`` when it
    stops giving them.
    """
    capture = _open(source)
    taken = 0
    try:
        while capture.grab():
            acquired_ns = time.time_ns()
            if due():
                got, picture = capture.retrieve()
                if not got:
                    break
                yield Acquired(_rgb(picture), acquired_ns)
            taken += 1
    finally:
        capture.release()
    if not taken:
        raise _unreadable(source)
    raise StationError(
        f"camera {source} gave no picture after {taken} frames, expected one picture after the other: "
        "is it still connected and powered? Start `edgead camera` again"
    )


def open_source(source: str, *, loop: bool = False, due: Due = lambda: True) -> Iterator[Acquired]:
    """Open what ``source`` names: a folder, a device number, a video file or a URL with ``://``.

    ``loop`` repeats a folder or a video file for ever; ``due`` picks the pictures of a live source, see
    ``live_images``. Raises ``ConfigError``, some of it only at the first image.
    """
    path = Path(source)
    is_live = _is_live(source)
    if loop and is_live:
        raise ConfigError(f"expected a folder or a video file to repeat with --loop, found {source}: leave --loop out")
    if is_live:
        return live_images(int(source) if source.isdecimal() else source, due)
    if path.is_dir():
        return folder_images(path, loop=loop)
    if path.is_file():
        return video_images(source, loop=loop)
    raise ConfigError(
        f"{source}: expected a folder of images, a video file, a device number or a stream URL, found nothing there"
    )


def count_images(source: str, *, loop: bool = False, limit: int | None = None) -> int | None:
    """Return how many images a folder, at most ``limit``, will give; None where that is not known beforehand.

    Raises ``ConfigError`` for a folder without an image.
    """
    if _is_live(source) or not Path(source).is_dir():
        return None
    found = len(images_below(Path(source)))
    if loop:
        return limit
    return found if limit is None else min(found, limit)


def _is_live(source: str) -> bool:
    return source.isdecimal() or "://" in source


def _open(source: str | int) -> cv2.VideoCapture:
    import cv2

    return cv2.VideoCapture(source)


def _rgb(picture: np.ndarray) -> np.ndarray:
    import cv2

    return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # noqa: PLR2004 - grey


def _unreadable(source: str | int) -> ConfigError:
    return ConfigError(
        f"expected a camera device number, video file or stream URL that OpenCV reads, found {source!r}: "
        "is it connected, readable and of a format OpenCV knows?"
    )
