"""The camera process: sends images as frame messages and keeps account of the receipts.

Pacing: ``rate`` frames a second by the clock, and never more than ``window`` frames without a receipt. A station that
falls behind therefore slows a replay down instead of losing frames; a live camera (``window`` 0) is not slowed and the
station answers overload.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

from runtime.errors import StationError
from runtime.frame import Clock, FrameHeader, PixelFormat
from runtime.shell import signals_held_back
from runtime.sources import Acquired
from runtime.wire import Receipt, decode_receipt, encode_frame

#: Frames libzmq may hold for a station that does not take them.
SEND_HIGH_WATER = 16
LINGER_MS = 2000
#: Smaller images are copied into the message: lending them to libzmq's thread costs more (its own threshold).
COPY_BELOW_BYTES = 65536


@dataclass
class CameraCount:
    """What a camera process sent and what it was told."""

    sent: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        """Frames with a receipt, accepted or refused."""
        return self.verdicts.total() + self.refused.total()

    def as_json(self) -> dict[str, Any]:
        """Return the figures `edgead camera --json` ends with."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "verdicts": dict(self.verdicts),
            "refused": dict(self.refused),
        }


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """How a camera process sends. ``rate`` 0 = as fast as receipts allow; ``window`` 0 = do not wait for receipts."""

    name: str
    address: str
    rate: float = 0.0
    window: int = 4
    timeout_s: float = 30.0
    checksum: bool = False
    simulated: bool = False
    part_prefix: str = ""


class CameraClient:
    """A DEALER connection to a station's frame socket. Not thread-safe; close it."""

    def __init__(self, options: CameraOptions) -> None:
        self.options = options
        self.session = secrets.randbits(64)
        self.count = CameraCount()
        with signals_held_back():
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.connect(options.address)

    def send(self, acquired: Acquired, trigger_id: int | None = None) -> None:
        """Send one image; raises ``StationError`` when the station takes nothing for ``timeout_s``."""
        image = np.ascontiguousarray(acquired.image)
        pixels = image.data.cast("B")
        options, number = self.options, self.count.sent
        header = FrameHeader(
            camera=options.name,
            session=self.session,
            frame_id=number,
            height=image.shape[0],
            width=image.shape[1],
            pixel_format=PixelFormat.MONO8 if image.ndim == 2 else PixelFormat.RGB8,  # noqa: PLR2004 - grey
            acquired_ns=acquired.acquired_ns,
            clock=Clock.HOST,
            trigger_id=trigger_id,
            part_id=f"{options.part_prefix}{number:06d}" if options.part_prefix else "",
            source=acquired.source,
            simulated=options.simulated,
            payload_crc32=zlib.crc32(pixels) if options.checksum else None,
        )
        if not self._socket.poll(int(options.timeout_s * 1000), zmq.POLLOUT):
            raise self._silent("took no frame")
        self._socket.send_multipart([*encode_frame(header), pixels], copy=pixels.nbytes < COPY_BELOW_BYTES)
        self.count.sent += 1

    def receive(self, timeout_ms: int) -> Receipt | None:
        """Take the next receipt, or None after ``timeout_ms``."""
        if not self._socket.poll(timeout_ms):
            return None
        receipt = decode_receipt(self._socket.recv_multipart())
        if receipt.accepted:
            self.count.verdicts[receipt.verdict.label] += 1
        else:
            self.count.refused[receipt.reason] += 1
        return receipt

    def wait_until_outstanding(self, most: int) -> None:
        """Take receipts until at most ``most`` frames lack one; ``StationError`` after ``timeout_s`` of silence."""
        while self.count.sent - self.count.answered > most:
            if self.receive(int(self.options.timeout_s * 1000)) is None:
                raise self._silent(
                    f"left {self.count.sent - self.count.answered} of {self.count.sent} frames without a receipt"
                )

    def close(self) -> None:
        """Close the connection, giving unsent frames ``LINGER_MS``."""
        self._socket.close()
        self._context.term()

    def _silent(self, what: str) -> StationError:
        options = self.options
        return StationError(
            f"the station at {options.address} {what} for {options.timeout_s:g} s: "
            "is `edgead run` up, and the address right?"
        )


def replay(
    images: Iterator[Acquired], options: CameraOptions, on_sent: Callable[[CameraCount], None] = lambda _count: None
) -> CameraCount:
    """Send every image of ``images`` at the pace of ``options``, wait for the last receipts, return the account."""
    client = CameraClient(options)
    try:
        start = time.monotonic()
        for acquired in images:
            if options.rate:
                time.sleep(max(0.0, start + client.count.sent / options.rate - time.monotonic()))
            client.send(acquired)
            if options.window:
                client.wait_until_outstanding(options.window - 1)
            else:
                while client.receive(0):
                    pass
            on_sent(client.count)
        client.wait_until_outstanding(0)
        on_sent(client.count)
        return client.count
    finally:
        client.close()
