"""One acquired image with what the camera said about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class PixelFormat(StrEnum):
    """How pixels lie in the payload: row-major, no padding, 8 bits a channel (names after GenICam PFNC)."""

    MONO8 = "mono8"
    RGB8 = "rgb8"
    BGR8 = "bgr8"

    @property
    def channels(self) -> int:
        """Bytes a pixel: 1 or 3."""
        return 1 if self is PixelFormat.MONO8 else 3


class Clock(StrEnum):
    """Which clock ``acquired_ns`` was read from."""

    HOST = "host"  # UTC of the machine that runs the camera process
    PTP = "ptp"  # UTC, disciplined by IEEE 1588
    CAMERA = "camera"  # the camera's own tick counter: restarts at power-up


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What travels with the pixels of one frame.

    ``session`` is a random number the camera process draws at its start; (camera, session, frame_id) names a frame.
    ``frame_id`` counts up by one a frame from 0, so a gap is a frame lost before it reached the host.
    ``recipe`` names one of the camera's recipes in the station file; empty for the current one.
    ``source`` says where a replayed frame came from (a path relative to the replayed folder); empty for a live camera.
    """

    camera: str
    session: int
    frame_id: int
    height: int
    width: int
    pixel_format: PixelFormat
    acquired_ns: int
    clock: Clock = Clock.HOST
    trigger_id: int | None = None
    part_id: str = ""
    source: str = ""
    simulated: bool = False
    payload_crc32: int | None = None
    recipe: str = ""

    @property
    def payload_bytes(self) -> int:
        """Size of the pixels in bytes: height x width x channels."""
        return self.height * self.width * self.pixel_format.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.height, self.width, self.pixel_format.channels)


@dataclass(frozen=True, slots=True)
class Frame:
    """An image as a detector sees it.

    ``image``: uint8, 0..255, [H, W] (grey) or [H, W, 3] (RGB order), C-contiguous. ``name`` identifies it for a
    person: the path of a reference relative to its folder, or ``<camera>/<session>/<frame_id>``.
    """

    image: np.ndarray
    name: str
    camera: str = ""
    acquired_ns: int = 0
