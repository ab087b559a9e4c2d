"""One camera's way through the host: pipeline, shared memory and worker, and the records that come out.

A lane decides; ``runtime.host`` does the talking. Everything that leaves a lane is an ``Answer``: exactly one for every
frame that came in.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from runtime.config import Camera, Station
from runtime.errors import StationError
from runtime.frame import FrameHeader
from runtime.inspection import ErrorWord, MapInfo, Verdict, decide
from runtime.lifecycle import State
from runtime.pipeline import WAITING_ERROR, Pipeline, Ticket
from runtime.slots import Slots, answer_bytes
from runtime.supervisor import Supervisor
from runtime.template import Template

log = logging.getLogger("edgead.host")

#: Late answers remembered until somebody asks for them.
MOST_LATE = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one frame, before it is published."""

    header: FrameHeader
    number: int
    admitted_ns: int
    received_ns: int
    verdict: Verdict
    error: ErrorWord = ErrorWord.NONE
    detail: str = ""
    score: float | None = None
    queue_us: int = 0
    detect_us: int = 0
    map: MapInfo | None = None
    map_payload: bytes = b""
    preview: bytes = b""
    #: Where the frame's pixels are until the lane takes another frame; None if they were never taken in.
    slot: int | None = None


class Lane:
    """The frames of one camera. Times are monotonic nanoseconds except ``received_ns``, which is UTC."""

    def __init__(
        self, name: str, camera: Camera, station: Station, template: Template, builtins: tuple[str, ...]
    ) -> None:
        self.name = name
        self.camera = camera
        self.template = template
        self.thresholds = template.manifest.thresholds
        self.pipeline = Pipeline(camera.queue, camera.deadline_ms * 1_000_000)
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        #: Answers of the worker that came after the deadline: number of the frame, score where it gave one.
        self.late: deque[tuple[int, float | None]] = deque(maxlen=MOST_LATE)
        self._map_encoding = station.publish.map
        height, width = template.manifest.map_shape
        self._map_raw_bytes = height * width * 2
        self._map_expected: dict[str, Any] = {
            "encoding": self._map_encoding,
            "dtype": _MAP_DTYPE[self._map_encoding],
            "height": height,
            "width": width,
        }
        room = answer_bytes(template.manifest.map_shape, preview=station.publish.preview)
        self._slots = Slots.create(self.pipeline.slot_count, station.max_frame_bytes, room)
        setup = {
            "op": "setup",
            "builtins": list(builtins),
            "store": str(station.store),
            "template": template.digest,
            "detector": camera.detector,
            "device": station.worker.device,
            "threads": station.worker.threads,
            "map": station.publish.map,
            "preview": station.publish.preview,
            "exposure": camera.exposure.model_dump() if camera.exposure else None,
            "repeat_limit": camera.repeat_limit,
            "slots": self._slots.count,
            "frame_bytes": self._slots.frame_bytes,
            "answer_bytes": self._slots.answer_bytes,
        }
        self.worker = Supervisor(
            name,
            setup,
            self._slots,
            start_timeout_s=station.worker.start_timeout_s,
            hang_s=station.worker.hang_s,
            restart_budget=station.worker.restart_budget,
            restart_window_s=station.worker.restart_window_s,
            self_test_s=station.worker.self_test_s,
        )

    @property
    def answer_bytes(self) -> int:
        """Largest map and preview of one result, in bytes."""
        return self._slots.answer_bytes

    def take(
        self, header: FrameHeader, pixels: memoryview, number: int, now_ns: int, received_ns: int
    ) -> Answer | None:
        """Admit a frame, copying its pixels into shared memory (the only copy); an answer at once if it cannot wait."""
        self.counts["frames"] += 1
        has_failed = self.worker.state is State.FAILED
        ticket = None if has_failed else self.pipeline.admit(number, header, now_ns, received_ns)
        if ticket is None:
            word = WAITING_ERROR.get(self.worker.state, ErrorWord.STOPPING)
            full = f"{self.pipeline.waiting} frames already wait, the limit is {self.camera.queue}"
            detail = f"the worker {self.worker.last_error}" if has_failed else full
            return self._count(Answer(header, number, now_ns, received_ns, Verdict.NOT_DECIDABLE, word, detail))
        self._slots.frame(ticket.slot, pixels.nbytes)[:] = pixels
        return None

    def refuse(self, header: FrameHeader, number: int, now_ns: int, received_ns: int) -> Answer:
        """Answer a frame that came while the station is stopping."""
        self.counts["frames"] += 1
        detail = "the station is stopping"
        return self._count(
            Answer(header, number, now_ns, received_ns, Verdict.NOT_DECIDABLE, ErrorWord.STOPPING, detail)
        )

    def advance(self, now_ns: int) -> list[Answer]:
        """Do everything that is due: deadlines, hung worker, restart, dispatch. Never blocks."""
        answers = self._expired(now_ns)
        overdue = self.worker.overdue(now_ns, self.pipeline.busy_since_ns)
        if overdue:
            answers += self._bury(now_ns, overdue)
        self.worker.start_if_due(now_ns)
        self.dispatch(now_ns)
        self.worker.beat(now_ns, idle=self.pipeline.busy_since_ns is None)
        return answers

    def _expired(self, now_ns: int) -> list[Answer]:
        overdue = self.pipeline.expired(now_ns)
        return [self._undecided(ticket, *self._why_expired(held), now_ns) for ticket, held in overdue]

    def pixels(self, answer: Answer) -> memoryview | None:
        """Return the pixels an answer is about, in shared memory, until the lane takes another frame; None if gone."""
        if answer.slot is None:
            return None
        return self._slots.frame(answer.slot, answer.header.payload_bytes)

    def next_due_ns(self) -> int | None:
        """Return when ``advance`` next has something to do, or None."""
        due = [self.pipeline.next_deadline_ns(), self.worker.next_due_ns(self.pipeline.busy_since_ns)]
        return min((time for time in due if time is not None), default=None)

    def read_worker(self, now_ns: int) -> Iterator[Answer]:
        """Take every record the worker has sent; a worker that is gone or out of step is buried.

        An answer is out before the next record is looked for: whoever publishes it need not wait for that. Deadlines
        come first: what the worker said in time but nobody read in time is late.
        """
        yield from self._expired(now_ns)
        try:
            while self.worker.link is not None and (record := self.worker.link.receive()) is not None:
                yield from self._handle(record, now_ns)
        except EOFError:
            yield from self._bury(now_ns, "died")
        except (StationError, ValueError, KeyError, TypeError) as error:
            yield from self._bury(now_ns, f"sent a record out of step: {error}")

    def stop(self, now_ns: int) -> list[Answer]:
        """Stop the worker; whatever has not left yet leaves undecided."""
        self.worker.stop()
        self._slots.close()
        detail = "the station is stopping"
        rest = [self._undecided(ticket, ErrorWord.STOPPING, detail, now_ns) for ticket in self.pipeline.drained()]
        return [replace(answer, slot=None) for answer in rest]  # the memory is gone

    def status(self) -> dict[str, Any]:
        """Return the lane's part of `edgead status --json`."""
        return {
            "product": self.camera.product,
            "detector": self.camera.detector,
            "template": self.template.digest,
            "worker": self.worker.state.value,
            "worker_pid": self.worker.pid,
            "restarts": self.worker.restarts,
            "self_tests": self.worker.self_tests,
            "last_error": self.worker.last_error,
            "waiting": self.pipeline.waiting,
            "unanswered": self.pipeline.unanswered,
            "late_answers": self.pipeline.late_answers,
            **{key: self.counts[key] for key in ("frames", "inspections", "ok", "not_ok", "not_decidable")},
            "errors": dict(self.errors),
        }

    def dispatch(self, now_ns: int) -> None:
        """Send the worker the frames it can take now."""
        while self.worker.state is State.READY and (ticket := self.pipeline.dispatch(now_ns)) is not None:
            header = ticket.header
            record = {
                "op": "inspect",
                "ticket": ticket.number,
                "slot": ticket.slot,
                "shape": header.shape,
                "format": header.pixel_format,
                "frame": [header.session, header.frame_id],
                "live": not (header.source or header.simulated),
            }
            try:
                self.worker.send(record)
            except EOFError:
                return  # it died: ``read_worker`` takes what it still said, then buries it

    def _handle(self, record: dict[str, Any], now_ns: int) -> list[Answer]:
        for op, why in _UNFIT:
            if record["op"] == op:
                return self._bury(now_ns, f"{why}: {record['error']}")
        if record["op"] == "ready":
            self.worker.ready(now_ns)
            return []
        if record["op"] == "alive":
            self.worker.alive(now_ns, golden=record["golden"] is True)
            return []
        dispatched_ns = self.pipeline.busy_since_ns or now_ns
        ticket = self.pipeline.answered(record["ticket"], now_ns)
        if ticket is None:
            score = record.get("score")
            self.late.append((record["ticket"], score if type(score) is float and math.isfinite(score) else None))
            return []
        try:
            return [self._outcome(ticket, record, dispatched_ns, now_ns)]
        except (KeyError, TypeError, ValueError) as error:
            # The ticket has left the pipeline: whatever is wrong with the record, the frame must be answered.
            detail = f"the worker's record is malformed: {type(error).__name__}: {error}"
            return [self._undecided(ticket, ErrorWord.RESULT_BAD, detail, now_ns)]

    def _outcome(self, ticket: Ticket, record: dict[str, Any], dispatched_ns: int, now_ns: int) -> Answer:
        """Turn the worker's record into an answer; anything doubtful about it raises or is NotDecidable."""
        if record["op"] != "done":
            if record["error"] not in _WORKER_ERRORS:
                raise ValueError(f"expected an error word of {_WORKER_ERRORS}, found {record['error']!r}")
            return self._undecided(ticket, ErrorWord(record["error"]), str(record["detail"]), now_ns)
        score, threshold = record["score"], self.thresholds.image
        if type(score) is not float or not math.isfinite(score):
            return self._undecided(ticket, ErrorWord.RESULT_BAD, f"score {score!r} is not a finite number", now_ns)
        if threshold is None:
            detail = "the template has no image threshold: calibrate with more references"
            return self._undecided(ticket, ErrorWord.THRESHOLD_MISSING, detail, now_ns)
        map_bytes, preview_bytes = _count_in(record, "map_bytes"), _count_in(record, "preview_bytes")
        info = self._map_info(record, map_bytes)
        room = self._slots.answer(ticket.slot, map_bytes + preview_bytes)
        answer = Answer(
            ticket.header,
            ticket.number,
            ticket.admitted_ns,
            ticket.received_ns,
            decide(score, threshold),
            score=score,
            queue_us=max(0, dispatched_ns - ticket.admitted_ns) // 1000,
            detect_us=_count_in(record, "detect_us"),
            map=info,
            map_payload=bytes(room[:map_bytes]),
            preview=bytes(room[map_bytes:]),
            slot=ticket.slot,
        )
        return self._count(answer)

    def _map_info(self, record: dict[str, Any], size: int) -> MapInfo | None:
        """Return the description of the answer's map; ``ValueError`` unless it is the map the station file asks for."""
        if self._map_encoding == "none" and not size:
            return None
        found = {"scale": 1.0, "offset": 0.0, **record["map"]}
        expected = self._map_expected | {"scale": found["scale"], "offset": found["offset"]}
        if found != expected:
            raise ValueError(f"expected {expected}, found {found}")
        if not all(type(value) is float and math.isfinite(value) for value in (found["scale"], found["offset"])):
            raise ValueError(f"expected a finite scale and offset, found {found}")
        if size != self._map_raw_bytes and (self._map_encoding == "raw" or not size):
            raise ValueError(f"expected the bytes of a map of {self._map_raw_bytes} bytes, found {size}")
        return MapInfo(**expected)  # not ``found``: whatever else its numbers may be, these are integers

    def _undecided(self, ticket: Ticket, word: ErrorWord, detail: str, now_ns: int) -> Answer:
        return self._count(
            Answer(
                ticket.header,
                ticket.number,
                ticket.admitted_ns,
                ticket.received_ns,
                Verdict.NOT_DECIDABLE,
                word,
                detail,
                queue_us=max(0, (ticket.dispatched_ns or now_ns) - ticket.admitted_ns) // 1000,
                slot=ticket.slot,
            )
        )

    def _count(self, answer: Answer) -> Answer:
        self.counts["inspections"] += 1
        self.counts[_COUNT_NAME[answer.verdict]] += 1
        if answer.error is not ErrorWord.NONE:
            self.errors[answer.error.value] += 1
        return answer

    def _why_expired(self, held_by_worker: bool) -> tuple[ErrorWord, str]:
        deadline = f"no answer within {self.camera.deadline_ms} ms"
        if held_by_worker:
            return ErrorWord.DETECTOR_TIMEOUT, deadline
        word = WAITING_ERROR.get(self.worker.state, ErrorWord.STOPPING)
        return word, f"{deadline}: worker {self.worker.state}"

    def _bury(self, now_ns: int, why: str) -> list[Answer]:
        self.worker.gone(now_ns, why)
        victim, why = self.pipeline.lost(), f"the worker {why}"
        lost = [victim] if victim is not None else []
        if self.worker.state is State.FAILED:  # nobody comes for the frames that wait
            lost += self.pipeline.drained()
        return [self._undecided(ticket, ErrorWord.DETECTOR_CRASH, why, now_ns) for ticket in lost]


def _count_in(record: dict[str, Any], name: str) -> int:
    """Return a whole number of 0 or more; ``ValueError`` for anything else, ``KeyError`` for nothing."""
    value = record[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name}: expected a whole number of 0 or more, found {value!r}")
    return value


_MAP_DTYPE = {"raw": "float16", "png16": "uint16", "none": ""}
#: What a worker says of itself before it ends.
_UNFIT = (("failed", "could not load"), ("unfit", "failed its self-test"))
#: What a worker may say about its detector; every other word is the host's to say.
_WORKER_ERRORS = (
    ErrorWord.DETECTOR_ERROR,
    ErrorWord.RESULT_BAD,
    ErrorWord.FRAME_EXPOSURE,
    ErrorWord.FRAME_REPEATED,
)
_COUNT_NAME = {Verdict.OK: "ok", Verdict.NOT_OK: "not_ok", Verdict.NOT_DECIDABLE: "not_decidable"}
