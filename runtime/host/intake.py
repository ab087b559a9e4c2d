"""What comes in by the frame socket: decoded, checked, recorded, and handed to its lane or answered at once.

A frame of a camera whose triggers come ahead goes to ``runtime.host.ahead``, as triggers do; every other frame is its
own trigger. Nothing is sent here: what is to be said goes to a ``Desk``, which the host is.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from runtime.errors import WireError
from runtime.frame import FrameHeader
from runtime.host.ahead import UNREAD_DETAIL, Ahead, unknown_recipe
from runtime.host.demands import Demands, Desk, Roads
from runtime.host.publication import Asker, Demand, refusal_of
from runtime.host.records import Records
from runtime.inspection import ErrorWord
from runtime.lane.lane import Answer, Lane
from runtime.ledger.records import Earlier, Unread
from runtime.trigger import TriggerHeader
from runtime.wire.messages import decode_frame, decode_trigger, is_trigger

log = logging.getLogger("edgead.host")

#: Messages taken from the frame socket before workers and deadlines are looked at again.
FRAMES_PER_TURN = 32


class Intake:
    """The way in of one station."""

    def __init__(self, roads: Roads, desk: Desk, *, max_frame_bytes: int) -> None:
        self.refused: Counter[str] = Counter()
        self._roads = roads
        self._desk = desk
        self._max_frame_bytes = max_frame_bytes
        self._demands = Demands(desk)
        self._ahead = Ahead(roads, desk, self._demands, self._refuse)
        self._receive: Callable[[], list[Any] | None] = lambda: None
        self._records = Records()

    def open(self, receive: Callable[[], list[Any] | None], records: Records) -> None:
        """Take messages (identity, then the parts of a message) from ``receive``; record them in ``records``."""
        self._receive, self._records = receive, records
        self._ahead.records = records

    @property
    def waiting(self) -> int:
        """Triggers without their frame and frames without their trigger."""
        return self._ahead.waiting

    def answered(self, number: int) -> Demand:
        """Forget a trigger that has its answer; return who gets a receipt of it."""
        return self._demands.answered(number)

    def advance(self, now_ns: int) -> None:
        """Answer the triggers whose frame did not come, and the frames whose trigger did not."""
        self._ahead.advance(now_ns)

    def next_due_ns(self) -> int | None:
        """Return when ``advance`` next has something to do, or None."""
        return self._ahead.next_due_ns()

    def close(self, now_ns: int) -> None:
        """Answer everything that still waits for its other half: the station ends."""
        self._ahead.close(now_ns)

    def status(self, camera: str) -> dict[str, int]:
        """Return how many triggers and early frames of a camera wait for their other half."""
        return self._ahead.status(camera)

    def take_frames(self) -> bool:
        """Take what has arrived, at most ``FRAMES_PER_TURN`` messages; False when nothing is left."""
        for _ in range(FRAMES_PER_TURN):
            message = self._receive()
            if message is None:
                return False
            identity, *parts = message
            self._take(identity.bytes, [part.buffer for part in parts])
        return True

    def _take(self, identity: bytes, parts: list[memoryview]) -> None:
        """Decode one message and take it in, or refuse it with a receipt."""
        header: FrameHeader | TriggerHeader | None = None
        received_ns, is_raised = time.time_ns(), is_trigger(parts)
        try:
            if is_raised:
                header = decode_trigger(parts)
                self._expect_camera(header.camera)
                self._ahead.raise_trigger(identity, header, received_ns, time.monotonic_ns())
                return
            header, pixels = decode_frame(parts, max_payload_bytes=self._max_frame_bytes)
            lane = self._expect_camera(header.camera)
            if lane.camera.triggers == "ahead":
                self._ahead.take_frame(identity, header, pixels, received_ns, time.monotonic_ns())
            else:
                self._take_frame(identity, header, pixels, received_ns)
        except WireError as refusal:
            self._refuse(identity, header, refusal, is_raised=is_raised)

    def _take_frame(self, identity: bytes, header: FrameHeader, pixels: memoryview, received_ns: int) -> None:
        """Take a frame that is its own trigger, or answer it as before."""
        camera = header.camera
        lane = self._roads.lane(camera, header.recipe or self._roads.recipe_now(camera))
        known = self._expect_camera(camera) if lane is None else lane
        number = self._records.admit(header, received_ns, known.camera.deadline_ms)
        asker = Asker(identity, header.session, header.frame_id, header.acquired_ns)
        if isinstance(number, Earlier):
            self._demands.answer_again(number, asker)
            return
        recorded = number.trigger if isinstance(number, Unread) else number
        self._demands.begin(recorded, Demand([asker]))
        now_ns = time.monotonic_ns()
        word, detail = None, ""
        if self._desk.is_stopping:
            word, detail = ErrorWord.STOPPING, "the station is stopping"
        elif lane is None:
            word, detail = ErrorWord.BAD_COMMAND, unknown_recipe(self._roads, header.camera, header.recipe)
        elif isinstance(number, Unread):
            word, detail = ErrorWord.DISK_FULL, UNREAD_DETAIL
        at_once: Answer | None
        if word is not None:
            at_once = known.refuse(header, recorded, now_ns, received_ns, word=word, detail=detail)
        else:
            at_once = known.take(header, pixels, recorded, now_ns, received_ns)
        if at_once is None:
            known.dispatch(now_ns)  # now: the worker can begin while the host writes it down and looks for more
        if not isinstance(number, Unread):
            self._records.enter(number, header, received_ns, known.camera.deadline_ms)
        if at_once is not None:
            self._desk.take_answer(known, at_once, pixels)

    def _expect_camera(self, camera: str) -> Lane:
        """Return the lane of a camera's own product; ``WireError`` if the station has no such camera."""
        known = self._roads.cameras()
        lane = self._roads.lane(camera, "") if camera in known else None
        if lane is None:
            raise WireError("unknown_camera", f"the station knows {', '.join(known)}, found {camera!r}")
        return lane

    def _refuse(
        self,
        identity: bytes,
        header: FrameHeader | TriggerHeader | None,
        refusal: WireError,
        *,
        is_raised: bool = False,
    ) -> None:
        self.refused[refusal.reason] += 1
        self._records.refuse(refusal.reason)
        log.debug("refused a message: %s", refusal)
        self._desk.send_receipt(identity, refusal_of(header, refusal.reason, is_trigger=is_raised))
