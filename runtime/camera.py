"""The camera process: sends images as frame messages and keeps account of the receipts.

Pacing: ``rate`` frames a second by the clock, and never more than ``window`` frames without a receipt. A station that
falls behind therefore slows a replay down instead of losing frames. A live camera is not slowed: pictures that come
before their time, or while the window is full, are dropped at the camera, and with ``window`` 0 none waits for a
receipt and the station answers overload.

A station that went away and came back may have lost what was on its way to it: frames without a receipt are then sent
again, the newest ``RESEND_FRAMES`` (or ``window``) of them. A station with a ledger inspects none of them twice.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import zmq

from runtime.errors import StationError
from runtime.frame import Clock, FrameHeader, PixelFormat
from runtime.shell import signals_held_back
from runtime.sources import Acquired, Due, count_images, open_source
from runtime.wire.messages import Receipt, decode_receipt, encode_frame

#: Frames libzmq may hold for a station that does not take them.
SEND_HIGH_WATER = 16
LINGER_MS = 2000
#: Frames kept to be sent again by a camera that waits for no receipt; one that does keeps those it waits for.
RESEND_FRAMES = 16
#: How often it is tried to send more of them while the socket takes none.
RESEND_POLL_MS = 20
#: Smaller images are copied into the message: lending them to libzmq's thread costs more (its own threshold).
COPY_BELOW_BYTES = 65536


@dataclass
class CameraCount:
    """What a camera process sent and what it was told."""

    sent: int = 0
    sent_again: int = 0
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
            "sent_again": self.sent_again,
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
        self._connections = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._connected = False
        self._unanswered: OrderedDict[int, list[Any]] = OrderedDict()  # frame id -> its message
        self._again: deque[int] = deque()  # frame ids to send again
        self._repeated: set[int] = set()  # those that were: they may get two receipts
        self._socket.connect(options.address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._connections, zmq.POLLIN)

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
        message: list[Any] = [*encode_frame(header), pixels]
        self._socket.send_multipart(message, copy=pixels.nbytes < COPY_BELOW_BYTES)
        self.count.sent += 1
        self._unanswered[number] = message
        if len(self._unanswered) > max(RESEND_FRAMES, options.window):
            self._unanswered.popitem(last=False)

    def receive(self, timeout_ms: int) -> Receipt | None:
        """Take the next receipt of a frame that had none, or None after ``timeout_ms``.

        Sends unanswered frames again when the connection was lost and is there again.
        """
        give_up = time.monotonic() + timeout_ms / 1000
        while True:
            wait_ms = max(0, round((give_up - time.monotonic()) * 1000))
            ready = dict(self._poller.poll(min(wait_ms, RESEND_POLL_MS) if self._again else wait_ms))
            if self._connections in ready:
                self._note_connection()
            if self._again:
                self._send_again()
            if self._socket in ready and (receipt := self._take_receipt()) is not None:
                return receipt
            if not ready and time.monotonic() >= give_up:
                return None

    def _take_receipt(self) -> Receipt | None:
        """Count the receipt that waits; None if its frame, sent twice, had one already."""
        receipt = decode_receipt(self._socket.recv_multipart())
        ours = receipt.session == self.session and (receipt.accepted or receipt.camera == self.options.name)
        if ours and receipt.frame_id in self._repeated and receipt.frame_id not in self._unanswered:
            return None
        if ours:
            self._unanswered.pop(receipt.frame_id, None)
        if receipt.accepted:
            self.count.verdicts[receipt.verdict.label] += 1
        else:
            self.count.refused[receipt.reason] += 1
        return receipt

    def _note_connection(self) -> None:
        """Plan to send unanswered frames again, but for the first connection: libzmq sends what waits for that."""
        self._connections.recv_multipart()
        if self._connected:
            self._again = deque(self._unanswered)
        self._connected = True

    def _send_again(self) -> None:
        while self._again and self._socket.poll(0, zmq.POLLOUT):
            number = self._again.popleft()
            if (message := self._unanswered.get(number)) is not None:
                self._socket.send_multipart(message, copy=memoryview(message[-1]).nbytes < COPY_BELOW_BYTES)
                self._repeated.add(number)
                self.count.sent_again += 1

    def wait_until_outstanding(self, most: int) -> None:
        """Take receipts until at most ``most`` frames lack one; ``StationError`` after ``timeout_s`` of silence."""
        while self.count.sent - self.count.answered > most:
            if self.receive(int(self.options.timeout_s * 1000)) is None:
                raise self.silent()

    def silent(self) -> StationError:
        """Return the error for frames that stayed without a receipt."""
        return self._silent(
            f"left {self.count.sent - self.count.answered} of {self.count.sent} frames without a receipt"
        )

    def close(self) -> None:
        """Close the connection, giving unsent frames ``LINGER_MS``."""
        self._socket.disable_monitor()
        self._connections.close()
        self._socket.close()
        self._context.term()

    def _silent(self, what: str) -> StationError:
        options = self.options
        return StationError(
            f"the station at {options.address} {what} for {options.timeout_s:g} s: "
            "is `edgead run` up, and the address right?"
        )


class Pacing:
    """When the next frame of ``client`` may go: not before its time by the rate, nor without room in the window."""

    def __init__(self, client: CameraClient) -> None:
        self._client = client
        self._next = self._had_room = time.monotonic()

    def due(self) -> bool:
        """Tell whether a frame may go now; takes receipts and never waits.

        Raises ``StationError`` when the window has been full for ``timeout_s``.
        """
        client, now = self._client, time.monotonic()
        while client.receive(0):
            pass
        if client.options.window and client.count.sent - client.count.answered >= client.options.window:
            if now - self._had_room > client.options.timeout_s:
                raise client.silent()
            return False
        self._had_room = now
        return now >= self._next

    def wait(self) -> None:
        """Return when a frame may go; ``StationError`` after ``timeout_s`` without a receipt."""
        if self._client.options.window:
            self._client.wait_until_outstanding(self._client.options.window - 1)
        time.sleep(max(0.0, self._next - time.monotonic()))
        while self._client.receive(0):
            pass

    def sent(self) -> None:
        """Note that a frame has gone. Time a slow camera or station lost is not made up by a burst."""
        self._had_room = time.monotonic()
        if self._client.options.rate:
            self._next = max(self._next + 1 / self._client.options.rate, self._had_room)


def replay(
    images: Callable[[Due], Iterator[Acquired]],
    options: CameraOptions,
    on_answered: Callable[[int], None] = lambda _answered: None,
) -> CameraCount:
    """Send every image of ``images`` at the pace of ``options``, wait for the last receipts, return the account.

    ``images`` is given a function that tells a live source whether a picture may go now; a source that can wait
    ignores it. ``on_answered`` is called with the number of frames that have a receipt. Raises what the source raises,
    and ``StationError`` when the station is silent for ``timeout_s``.
    """
    client = CameraClient(options)
    try:
        pacing = Pacing(client)
        for acquired in images(pacing.due):
            pacing.wait()
            client.send(acquired)
            pacing.sent()
            on_answered(client.count.answered)
        client.wait_until_outstanding(0)
        on_answered(client.count.answered)
        return client.count
    finally:
        client.close()


def send_source(source: str, options: CameraOptions, *, loop: bool = False, limit: int | None = None) -> CameraCount:
    """Send what ``source`` names (see ``open_source``), at most ``limit`` frames; return the account.

    A replay whose length is known shows a progress bar on a terminal. Raises as ``open_source`` and ``replay`` do.
    """
    from runtime.terminal import progress_bars

    total = count_images(source, loop=loop, limit=limit)
    with progress_bars() as progress:
        return replay(
            lambda due: islice(open_source(source, loop=loop, due=due), limit),
            options,
            lambda answered: progress(answered, total, "frames answered") if total else None,
        )
