"""A station without sockets, workers or clock, for tests of triggers ahead: real intake and ledger, played lane."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from runtime.frame import FrameHeader, PixelFormat
from runtime.host.intake import Intake
from runtime.host.ledger_records import LedgerRecords
from runtime.host.publication import Asker, inspection_of, inspection_of_lost, receipt_of
from runtime.host.records import Records
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.lane.lane import Answer, Lane
from runtime.station.config import Camera, Evidence, Ledger
from runtime.trigger import TriggerHeader
from runtime.wire.messages import Receipt, encode_frame, encode_trigger

MS = 1_000_000
EPOCH = 1_800_000_000 * 10**9
PIXELS = bytes(range(6))


class Clock:
    """The time of all modules that ask: monotonic nanoseconds from 1, UTC from ``EPOCH``."""

    def __init__(self) -> None:
        self.now_ns = 1

    def monotonic_ns(self) -> int:
        """Return the monotonic time."""
        return self.now_ns

    def time_ns(self) -> int:
        """Return UTC."""
        return EPOCH + self.now_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class PlayedLane:
    """Takes frames as a lane does and answers them when told, good ones and at their deadline undecided."""

    def __init__(self, camera: Camera, clock: Clock) -> None:
        self.camera = camera
        self.clock = clock
        manifest = SimpleNamespace(product="part", detector=SimpleNamespace(name="played", version="1"))
        self.template = SimpleNamespace(manifest=manifest, digest="5e" * 32)
        self.thresholds = SimpleNamespace(image=0.5, pixel=None)
        self.waiting: deque[tuple[int, Answer]] = deque()
        self.framed: list[bool] = []

    def take(
        self,
        header: FrameHeader,
        pixels: memoryview,
        number: int,
        now_ns: int,
        received_ns: int,
        *,
        deadline_ns: int | None = None,
    ) -> Answer | None:
        """Admit a frame, or answer overload."""
        del pixels
        if len(self.waiting) >= self.camera.queue:
            return self.refuse(header, number, now_ns, received_ns, word=ErrorWord.OVERLOAD, detail="full")
        good = Answer(header, number, now_ns, received_ns, Verdict.OK, score=0.25)
        self.waiting.append((deadline_ns or now_ns + self.camera.deadline_ms * MS, good))
        return None

    def refuse(
        self,
        header: FrameHeader,
        number: int,
        now_ns: int,
        received_ns: int,
        *,
        word: ErrorWord = ErrorWord.STOPPING,
        detail: str = "the station is stopping",
        framed: bool = True,
    ) -> Answer:
        """Answer a frame, or a trigger without one, undecided."""
        self.framed.append(framed)
        return Answer(header, number, now_ns, received_ns, Verdict.NOT_DECIDABLE, word, detail)

    def dispatch(self, now_ns: int) -> None:
        """Send nothing anywhere."""

    def done(self) -> list[Answer]:
        """Answer the oldest frame."""
        return [self.waiting.popleft()[1]] if self.waiting else []

    def expired(self, now_ns: int) -> list[Answer]:
        """Answer the frames whose deadline has come."""
        due = [answer for deadline, answer in self.waiting if deadline <= now_ns]
        self.waiting = deque(each for each in self.waiting if each[0] > now_ns)
        return [
            self.refuse(
                each.header, each.number, now_ns, each.received_ns, word=ErrorWord.DETECTOR_TIMEOUT, detail="late"
            )
            for each in due
        ]


@dataclass
class Line:
    """One camera, ``top``, of a station with a ledger in ``folder`` (None: without one)."""

    folder: Path | None
    clock: Clock
    camera: Camera
    receipts: dict[bytes, list[Receipt]] = field(default_factory=dict)
    published: list[Inspection] = field(default_factory=list)
    is_stopping: bool = False
    known: tuple[str, ...] = ("",)
    #: Recipes whose lane was asked for; the last is that of the frame taken in last.
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._messages: deque[list[Any]] = deque()
        self.start()

    # --- the host's part ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a run, and answer what the one before left open."""
        self.lane_of_top = PlayedLane(self.camera, self.clock)
        self.intake = Intake(self, self, max_frame_bytes=64)
        self.records: Records = Records()
        if self.folder is not None:
            settings = Ledger(path=self.folder, evidence=Evidence(ok_every=0))
            self.records = LedgerRecords(settings, "line1", "run")
        self.intake.open(lambda: self._messages.popleft() if self._messages else None, self.records)
        for waiting in self.records.left_open():
            lost = inspection_of_lost(waiting, None, seq=self.records.next_seq, station="line1", run_id="run")
            self.records.inspect(waiting.trigger, lost)
            self.published.append(lost)
        self.turn()

    def cameras(self) -> list[str]:
        """Return the one camera."""
        return ["top"]

    def recipes(self, camera: str) -> list[str]:
        """Return the recipes besides the first."""
        del camera
        return list(self.known[1:])

    def recipe_now(self, camera: str) -> str:
        """Return the first recipe."""
        del camera
        return self.known[0]

    def lane(self, camera: str, recipe: str) -> Lane | None:
        """Return the one lane, for every recipe there is."""
        self.asked.append(recipe)
        return cast("Lane", self.lane_of_top) if camera == "top" and recipe in self.known else None

    def take_answer(self, lane: Any, answer: Answer, pixels: memoryview | None = None) -> None:
        """Record and publish an answer."""
        del pixels
        demand = self.intake.answered(answer.number)
        seq = self.records.next_seq
        made = inspection_of(lane, answer, seq=seq, station="line1", run_id="run", ahead=demand.ahead)
        self.records.inspect(answer.number, made)
        self.published.append(made)
        for asker in demand.askers:
            self.send_receipt(asker.identity, receipt_of(made, asker))

    def repeat(self, inspection: Inspection, asker: Asker) -> None:
        """Send a receipt of an earlier inspection."""
        self.send_receipt(asker.identity, receipt_of(inspection, asker))

    def send_receipt(self, identity: bytes, receipt: Receipt) -> None:
        """Note a receipt under the connection it goes to."""
        self.receipts.setdefault(identity, []).append(receipt)

    def turn(self) -> None:
        """Do a turn of the host's loop."""
        while self.intake.take_frames():
            pass
        self.intake.advance(self.clock.now_ns)
        for answer in self.lane_of_top.expired(self.clock.now_ns):
            self.take_answer(self.lane_of_top, answer)
        self.records.end_turn(self.clock.now_ns)
        self.records.write(self.clock.now_ns)

    # --- the outside --------------------------------------------------------------------------------------------

    def send(self, identity: bytes, parts: list[bytes]) -> None:
        """Bring a message in, in a turn of its own."""
        identity_frame = SimpleNamespace(bytes=identity)
        self._messages.append([identity_frame, *(SimpleNamespace(buffer=memoryview(part)) for part in parts)])
        self.turn()

    def trigger(self, identity: bytes = b"plc", trigger_id: int = 1, **fields: Any) -> list[bytes]:
        """Raise a trigger; return its message."""
        parts = encode_trigger(TriggerHeader("top", trigger_id, **fields))
        self.send(identity, parts)
        return parts

    def frame(
        self, identity: bytes = b"cam", frame_id: int = 0, trigger_id: int | None = None, **fields: Any
    ) -> list[bytes]:
        """Send a frame; return its message."""
        values = {"acquired_ns": self.clock.time_ns()} | fields
        header = FrameHeader("top", 1, frame_id, 2, 3, PixelFormat.MONO8, trigger_id=trigger_id, **values)
        parts = [*encode_frame(header), PIXELS]
        self.send(identity, parts)
        return parts

    def finish(self) -> None:
        """Have the detector answer the oldest frame."""
        for answer in self.lane_of_top.done():
            self.take_answer(self.lane_of_top, answer)
        self.turn()

    def wait(self, time_ms: int) -> None:
        """Let time pass, then do a turn."""
        self.clock.now_ns += time_ms * MS
        self.turn()

    def kill(self) -> None:
        """End the run as SIGKILL does: nothing more is written."""
        if isinstance(self.records, LedgerRecords):
            ledger = self.records.ledger
            self.records._writer.close()  # noqa: SLF001 - what the kernel does for a killed process
            ledger._checkpointer.close()  # noqa: SLF001 - what the kernel does for a killed process
            ledger.journal.connection.close()
            os.close(ledger._lock)  # noqa: SLF001 - what the kernel does for a killed process
            ledger._lock = -1  # noqa: SLF001 - what the kernel does for a killed process

    def close(self) -> None:
        """End the run in order."""
        self.is_stopping = True
        self.intake.close(self.clock.now_ns)
        while self.lane_of_top.waiting:
            self.finish()
        self.turn()
        self.records.close()

    def of(self, identity: bytes) -> list[tuple[str, str, int | None]]:
        """Return what a connection was told: refusal word or verdict, error word, trigger id."""
        told = self.receipts.get(identity, [])
        return [(each.reason or each.verdict.label, each.error.value, each.trigger_id) for each in told]
