"""The messages between camera, host and subscribers, as functions from bytes to values. No socket in this file.

``docs/protocol.md`` describes the same format for other languages and quotes the vectors of ``tests/vectors``.
Rules:

* A message is a ZeroMQ multipart: topic, header part, raw payload parts. Pixels and maps are never inside msgpack.
* A header part is one msgpack map followed by four bytes, the big-endian CRC-32 (IEEE 802.3, as in zlib) of that map.
* A header names its schema and version. Unknown fields are ignored, an unknown major version is refused.
* Every size is checked against a named limit before anything is allocated for it.
* Damaged bytes give ``WireError`` with one of the words of ``REFUSALS`` and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import WireError
from runtime.frame import Clock, FrameHeader, PixelFormat
from runtime.inspection import ErrorWord, Verdict
from runtime.trigger import TriggerHeader
from runtime.wire.header import (
    MAX_NAME_BYTES,
    MAX_PART_ID_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_RECIPE_BYTES,
    MAX_SIDE_PX,
    Buffer,
    boolean,
    choice,
    expect_parts,
    integer,
    open_header,
    read_fields,
    seal,
    text,
    topic_name,
)
from runtime.wire.result import ERROR_WORDS, VERDICT_NUMBERS
from runtime.wire.result import RESULT_SCHEMA as RESULT_SCHEMA
from runtime.wire.result import RESULT_TOPIC_PREFIX as RESULT_TOPIC_PREFIX
from runtime.wire.result import decode_inspection as decode_inspection
from runtime.wire.result import decode_result as decode_result
from runtime.wire.result import encode_result as encode_result
from runtime.wire.result import result_topic as result_topic

FRAME_TOPIC = b"ead.v1.frame"
TRIGGER_TOPIC = b"ead.v1.trigger"
RECEIPT_TOPIC = b"ead.v1.receipt"

FRAME_SCHEMA = "edgead.frame"
TRIGGER_SCHEMA = "edgead.trigger"
RECEIPT_SCHEMA = "edgead.receipt"

#: What a receipt answers.
MESSAGES = ("frame", "trigger")
#: Longest deadline a trigger can ask for: that of a station file.
MAX_DEADLINE_MS = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The host's answer to one frame or trigger message, sent to who sent it.

    ``accepted`` false: the message was refused for ``reason`` (a word of ``REFUSALS``) and became no inspection;
    camera, session and frame_id are then those of the message if they could be read, else empty and 0. ``accepted``
    true: the inspection ``seq`` with ``verdict`` and ``error`` is published. Anything else raises ``ValueError``.
    ``message`` is a word of ``MESSAGES``. The receipt of a trigger names its frame, by 0 and 0 while that never came.
    """

    camera: str
    session: int
    frame_id: int
    accepted: bool
    reason: str = ""
    seq: int = 0
    verdict: Verdict = Verdict.UNDEFINED
    error: ErrorWord = ErrorWord.NONE
    message: str = "frame"
    trigger_id: int | None = None

    def __post_init__(self) -> None:
        """Refuse a receipt from which a camera could read a verdict that no inspection gave."""
        undecided = self.verdict is Verdict.NOT_DECIDABLE
        if not self.accepted and (self.verdict is not Verdict.UNDEFINED or not self.reason):
            raise ValueError(f"a refusal has a reason and no verdict, found {self.reason!r} and {self.verdict!r}")
        if self.accepted and (self.verdict is Verdict.UNDEFINED or self.reason):
            raise ValueError(f"an accepted frame has a verdict and no reason, found {self.verdict!r}, {self.reason!r}")
        if undecided is (self.error is ErrorWord.NONE):
            raise ValueError(f"an error word goes with NotDecidable, found {self.error} with {self.verdict!r}")


# --- encoding -----------------------------------------------------------------------------------------------------


def encode_frame(header: FrameHeader) -> list[bytes]:
    """Return the first two parts of a frame message; the caller appends the pixels as the third, uncopied.

    The fields are not checked: the host refuses a header that breaks the contract, and its receipt says why.
    """
    fields: dict[str, Any] = {
        "camera": header.camera,
        "session": header.session,
        "frame_id": header.frame_id,
        "height": header.height,
        "width": header.width,
        "pixel_format": header.pixel_format,
        "acquired_ns": header.acquired_ns,
        "clock": header.clock,
        "trigger_id": header.trigger_id,
        "part_id": header.part_id,
        "source": header.source,
        "simulated": header.simulated,
        "payload_crc32": header.payload_crc32,
        "recipe": header.recipe,
    }
    return [FRAME_TOPIC, seal(FRAME_SCHEMA, fields)]


def encode_trigger(header: TriggerHeader) -> list[bytes]:
    """Return the two parts of a trigger message; its fields are not checked, as with a frame."""
    fields: dict[str, Any] = {
        "camera": header.camera,
        "trigger_id": header.trigger_id,
        "part_id": header.part_id,
        "recipe": header.recipe,
        "raised_ns": header.raised_ns,
        "clock": header.clock,
        "deadline_ms": header.deadline_ms,
        "simulated": header.simulated,
    }
    return [TRIGGER_TOPIC, seal(TRIGGER_SCHEMA, fields)]


def encode_receipt(receipt: Receipt) -> list[bytes]:
    """Return the two parts of a receipt message."""
    fields = {
        "camera": receipt.camera,
        "session": receipt.session,
        "frame_id": receipt.frame_id,
        "accepted": receipt.accepted,
        "reason": receipt.reason,
        "seq": receipt.seq,
        "verdict": receipt.verdict,
        "error": receipt.error,
        "message": receipt.message,
        "trigger_id": receipt.trigger_id,
    }
    return [RECEIPT_TOPIC, seal(RECEIPT_SCHEMA, fields)]


# --- decoding -----------------------------------------------------------------------------------------------------


def decode_frame(
    parts: Sequence[Buffer], *, max_payload_bytes: int = MAX_PAYLOAD_BYTES
) -> tuple[FrameHeader, memoryview]:
    """Return header and pixels (a view, not a copy) of a frame message; raises ``WireError`` only."""
    expect_parts(parts, 3, 3)
    if parts[0] != FRAME_TOPIC:
        raise WireError("topic", f"expected {FRAME_TOPIC!r}, found {bytes(parts[0][:32])!r}")
    fields = open_header(parts[1], FRAME_SCHEMA)
    header = FrameHeader(**read_fields(fields, _FRAME_FIELDS))
    announced = header.payload_bytes
    if announced > max_payload_bytes:
        raise WireError(
            "frame_size", f"expected at most {max_payload_bytes} bytes of pixels, the header announces {announced}"
        )
    pixels = memoryview(parts[2])
    if pixels.nbytes != announced:
        raise WireError("payload_size", f"expected {announced} bytes for {header.shape}, found {pixels.nbytes}")
    if header.payload_crc32 is not None and zlib.crc32(pixels) != header.payload_crc32:
        raise WireError(
            "payload_crc", f"expected CRC-32 {header.payload_crc32:#010x}, found {zlib.crc32(pixels):#010x}"
        )
    return header, pixels


def is_trigger(parts: Sequence[Buffer]) -> bool:
    """Tell whether a message on the frame socket says that it is a trigger."""
    return len(parts) > 0 and parts[0] == TRIGGER_TOPIC


def decode_trigger(parts: Sequence[Buffer]) -> TriggerHeader:
    """Return the trigger in a message of two parts; raises ``WireError`` only."""
    expect_parts(parts, 2, 2)
    if parts[0] != TRIGGER_TOPIC:
        raise WireError("topic", f"expected {TRIGGER_TOPIC!r}, found {bytes(parts[0][:32])!r}")
    return TriggerHeader(**read_fields(open_header(parts[1], TRIGGER_SCHEMA), _TRIGGER_FIELDS))


def decode_receipt(parts: Sequence[Buffer]) -> Receipt:
    """Return the receipt in a message of two parts; raises ``WireError`` only."""
    expect_parts(parts, 2, 2)
    if parts[0] != RECEIPT_TOPIC:
        raise WireError("topic", f"expected {RECEIPT_TOPIC!r}, found {bytes(parts[0][:32])!r}")
    values = read_fields(open_header(parts[1], RECEIPT_SCHEMA), _RECEIPT_FIELDS)
    try:
        return Receipt(**values)
    except ValueError as error:
        raise WireError("field", str(error)) from error


# --- fields, in wire order ----------------------------------------------------------------------------------------

_CLOCKS = {each.value: each for each in Clock}
_FRAME_FIELDS = (
    topic_name("camera"),
    integer("session"),
    integer("frame_id"),
    integer("height", 1, MAX_SIDE_PX),
    integer("width", 1, MAX_SIDE_PX),
    choice("pixel_format", {each.value: each for each in PixelFormat}),
    integer("acquired_ns"),
    choice("clock", _CLOCKS, default=Clock.HOST.value),
    integer("trigger_id", default=None),
    text("part_id", MAX_PART_ID_BYTES, default=""),
    text("source", default=""),
    boolean("simulated", default=False),
    integer("payload_crc32", most=2**32 - 1, default=None),
    text("recipe", MAX_RECIPE_BYTES, default=""),
)
_TRIGGER_FIELDS = (
    topic_name("camera"),
    integer("trigger_id"),
    text("part_id", MAX_PART_ID_BYTES, default=""),
    text("recipe", MAX_RECIPE_BYTES, default=""),
    integer("raised_ns", default=None),
    choice("clock", _CLOCKS, default=Clock.HOST.value),
    integer("deadline_ms", 1, MAX_DEADLINE_MS, default=None),
    boolean("simulated", default=False),
)
_RECEIPT_FIELDS = (
    text("camera", MAX_NAME_BYTES),
    integer("session"),
    integer("frame_id"),
    boolean("accepted"),
    text("reason"),
    integer("seq"),
    choice("verdict", VERDICT_NUMBERS),
    choice("error", ERROR_WORDS),
    choice("message", {each: each for each in MESSAGES}, default="frame"),
    integer("trigger_id", default=None),
)
