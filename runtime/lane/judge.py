"""Turns a worker's record about one frame into the answer; whatever is doubtful about it is NotDecidable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from runtime.frame import FrameHeader
from runtime.inspection import ErrorWord, MapInfo, Verdict, decide
from runtime.lane.pipeline import Ticket
from runtime.store.manifest import Manifest
from runtime.worker.slots import Slots


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


def ask_for(ticket: Ticket) -> dict[str, Any]:
    """Return the record that has a worker inspect a frame."""
    header = ticket.header
    return {
        "op": "inspect",
        "ticket": ticket.number,
        "slot": ticket.slot,
        "shape": header.shape,
        "format": header.pixel_format,
        "frame": [header.session, header.frame_id],
        "live": not (header.source or header.simulated),
    }


def undecided(ticket: Ticket, word: ErrorWord, detail: str, now_ns: int) -> Answer:
    """Return the answer to an admitted frame that leaves without a decision."""
    return Answer(
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


class Judge:
    """Decides one template's frames. ``map_encoding``: what the station file asks for; ``slots``: where maps lie."""

    def __init__(self, manifest: Manifest, map_encoding: str, slots: Slots) -> None:
        self.thresholds = manifest.thresholds
        self._slots = slots
        self._map_encoding = map_encoding
        height, width = manifest.map_shape
        self._map_raw_bytes = height * width * 2
        self._map_expected: dict[str, Any] = {
            "encoding": map_encoding,
            "dtype": _MAP_DTYPE[map_encoding],
            "height": height,
            "width": width,
        }

    def answer(self, ticket: Ticket, record: dict[str, Any], dispatched_ns: int, now_ns: int) -> Answer:
        """Return the one answer to a frame that has left the pipeline, whatever the worker's record says of it."""
        try:
            return self._outcome(ticket, record, dispatched_ns, now_ns)
        except (KeyError, TypeError, ValueError) as error:
            detail = f"the worker's record is malformed: {type(error).__name__}: {error}"
            return undecided(ticket, ErrorWord.RESULT_BAD, detail, now_ns)

    def _outcome(self, ticket: Ticket, record: dict[str, Any], dispatched_ns: int, now_ns: int) -> Answer:
        if record["op"] != "done":
            if record["error"] not in _WORKER_ERRORS:
                raise ValueError(f"expected an error word of {_WORKER_ERRORS}, found {record['error']!r}")
            return undecided(ticket, ErrorWord(record["error"]), str(record["detail"]), now_ns)
        score, threshold = record["score"], self.thresholds.image
        if type(score) is not float or not math.isfinite(score):
            return undecided(ticket, ErrorWord.RESULT_BAD, f"score {score!r} is not a finite number", now_ns)
        if threshold is None:
            detail = "the template has no image threshold: calibrate with more references"
            return undecided(ticket, ErrorWord.THRESHOLD_MISSING, detail, now_ns)
        map_bytes, preview_bytes = _count_in(record, "map_bytes"), _count_in(record, "preview_bytes")
        info = self._map_info(record, map_bytes)
        room = self._slots.answer(ticket.slot, map_bytes + preview_bytes)
        return Answer(
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


def _count_in(record: dict[str, Any], name: str) -> int:
    """Return a whole number of 0 or more; ``ValueError`` for anything else, ``KeyError`` for nothing."""
    value = record[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name}: expected a whole number of 0 or more, found {value!r}")
    return value


_MAP_DTYPE = {"raw": "float16", "png16": "uint16", "none": ""}
#: What a worker may say about its detector; every other word is the host's to say.
_WORKER_ERRORS = (
    ErrorWord.DETECTOR_ERROR,
    ErrorWord.RESULT_BAD,
    ErrorWord.FRAME_EXPOSURE,
    ErrorWord.FRAME_REPEATED,
)
