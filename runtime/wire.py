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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from runtime.errors import WireError
from runtime.frame import Clock, FrameHeader, PixelFormat
from runtime.header import (
    MAX_NAME_BYTES,
    MAX_PART_ID_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_SIDE_PX,
    Buffer,
    boolean,
    choice,
    clip_text,
    integer,
    open_header,
    optional_number,
    read_fields,
    seal,
    text,
    topic_name,
)
from runtime.inspection import ErrorWord, Inspection, MapInfo, Verdict

FRAME_TOPIC = b"ead.v1.frame"
RECEIPT_TOPIC = b"ead.v1.receipt"
RESULT_TOPIC_PREFIX = b"ead.v1.result."

FRAME_SCHEMA = "edgead.frame"
RECEIPT_SCHEMA = "edgead.receipt"
RESULT_SCHEMA = "edgead.result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The host's answer to one frame message, sent to its camera.

    ``accepted`` false: the message was refused for ``reason`` (a word of ``REFUSALS``) and became no inspection;
    camera, session and frame_id are then those of the message if they could be read, else empty and 0. ``accepted``
    true: the inspection ``seq`` with ``verdict`` and ``error`` is published. Anything else raises ``ValueError``.
    """

    camera: str
    session: int
    frame_id: int
    accepted: bool
    reason: str = ""
    seq: int = 0
    verdict: Verdict = Verdict.UNDEFINED
    error: ErrorWord = ErrorWord.NONE

    def __post_init__(self) -> None:
        """Refuse a receipt from which a camera could read a verdict that no inspection gave."""
        undecided = self.verdict is Verdict.NOT_DECIDABLE
        if not self.accepted and (self.verdict is not Verdict.UNDEFINED or not self.reason):
            raise ValueError(f"a refusal has a reason and no verdict, found {self.reason!r} and {self.verdict!r}")
        if self.accepted and (self.verdict is Verdict.UNDEFINED or self.reason):
            raise ValueError(f"an accepted frame has a verdict and no reason, found {self.verdict!r}, {self.reason!r}")
        if undecided is (self.error is ErrorWord.NONE):
            raise ValueError(f"an error word goes with NotDecidable, found {self.error} with {self.verdict!r}")


def result_topic(station: str, camera: str) -> bytes:
    """Return ``ead.v1.result.<station>.<camera>``."""
    return RESULT_TOPIC_PREFIX + f"{station}.{camera}".encode()


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
    }
    return [FRAME_TOPIC, seal(FRAME_SCHEMA, fields)]


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
    }
    return [RECEIPT_TOPIC, seal(RECEIPT_SCHEMA, fields)]


def encode_result(inspection: Inspection) -> list[bytes]:
    """Return the first two parts of a result message; the caller appends the map and the preview it names.

    ``error_detail`` is cut to what the field holds: an exception's text must not cost the inspection it explains.
    """
    fields = dict(zip(_RESULT_NAMES, _result_values(inspection), strict=True))
    fields["error_detail"] = clip_text(inspection.error_detail)
    fields["error_code"] = inspection.error.code
    fields["map"] = None if inspection.map is None else dict(zip(_MAP_NAMES, _map_values(inspection.map), strict=True))
    return [result_topic(inspection.station, inspection.camera), seal(RESULT_SCHEMA, fields)]


# --- decoding -----------------------------------------------------------------------------------------------------


def decode_frame(
    parts: Sequence[Buffer], *, max_payload_bytes: int = MAX_PAYLOAD_BYTES
) -> tuple[FrameHeader, memoryview]:
    """Return header and pixels (a view, not a copy) of a frame message; raises ``WireError`` only."""
    _expect_parts(parts, 3, 3)
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


def decode_receipt(parts: Sequence[Buffer]) -> Receipt:
    """Return the receipt in a message of two parts; raises ``WireError`` only."""
    _expect_parts(parts, 2, 2)
    if parts[0] != RECEIPT_TOPIC:
        raise WireError("topic", f"expected {RECEIPT_TOPIC!r}, found {bytes(parts[0][:32])!r}")
    values = read_fields(open_header(parts[1], RECEIPT_SCHEMA), _RECEIPT_FIELDS)
    try:
        return Receipt(**values)
    except ValueError as error:
        raise WireError("field", str(error)) from error


def decode_result(parts: Sequence[Buffer]) -> tuple[Inspection, memoryview | None, memoryview | None]:
    """Return inspection, map payload and preview payload of a result message; raises ``WireError`` only."""
    _expect_parts(parts, 2, 4)
    if bytes(parts[0][: len(RESULT_TOPIC_PREFIX)]) != RESULT_TOPIC_PREFIX:
        raise WireError("topic", f"expected a topic under {RESULT_TOPIC_PREFIX!r}, found {bytes(parts[0][:32])!r}")
    inspection = _inspection(open_header(parts[1], RESULT_SCHEMA))
    topic = result_topic(inspection.station, inspection.camera)
    if parts[0] != topic:
        raise WireError("topic", f"expected {topic!r} as the header says, found {bytes(parts[0][:160])!r}")
    payloads = [memoryview(part) for part in parts[2:]]
    expected = (inspection.map is not None) + (inspection.preview is not None)
    if len(payloads) != expected:
        raise WireError("parts", f"expected {expected} payload parts as the header says, found {len(payloads)}")
    map_payload = payloads.pop(0) if inspection.map is not None else None
    if inspection.map is not None and map_payload is not None:
        _check_map_size(inspection.map, map_payload)
    return inspection, map_payload, (payloads.pop(0) if payloads else None)


def decode_inspection(part: Buffer) -> Inspection:
    """Return the inspection in the header part of a result message, as the ledger keeps it; ``WireError`` only."""
    return _inspection(open_header(part, RESULT_SCHEMA))


def _inspection(fields: Mapping[str, Any]) -> Inspection:
    values = read_fields(fields, _RESULT_FIELDS)
    error, code = values["error"], values.pop("error_code")
    if code != error.code:
        raise WireError("field", f"error_code: expected {error.code} for {error}, found {code}")
    try:
        return Inspection(**values, map=_map_info(fields))
    except ValueError as refusal:
        raise WireError("field", str(refusal)) from refusal


def _check_map_size(info: MapInfo, payload: memoryview) -> None:
    """Refuse a map payload of another size than ``info`` says: a PNG can announce gigabytes."""
    if info.encoding == "raw":
        expected_bytes = info.height * info.width * 2
        if payload.nbytes != expected_bytes:
            raise WireError("payload_size", f"expected a float16 map of {expected_bytes} bytes, found {payload.nbytes}")
        return
    start = _PNG_START + info.width.to_bytes(4, "big") + info.height.to_bytes(4, "big") + _PNG_GREY_16
    if bytes(payload[: len(start)]) != start:
        raise WireError("payload_size", f"expected a 16-bit grey PNG map of {info.height} x {info.width}")


def _expect_parts(parts: Sequence[Buffer], least: int, most: int) -> None:
    if not least <= len(parts) <= most:
        raise WireError("parts", f"expected {least} to {most} parts, found {len(parts)}")


def _map_info(fields: Mapping[str, Any]) -> MapInfo | None:
    value = fields.get("map")
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WireError("field", f"map: expected a map of fields, found {type(value).__name__}")
    found = read_fields(value, _MAP_FIELDS)
    encoding, dtype = found["encoding"], found["dtype"]
    if (encoding, dtype) not in {("raw", "float16"), ("png16", "uint16")}:
        raise WireError("field", f"map: expected raw float16 or png16 uint16, found {encoding[:20]} {dtype[:20]}")
    return MapInfo(**{name: each for name, each in found.items() if each is not None})


#: A PNG file begins with its signature and the IHDR chunk: width, height, bit depth, colour type (PNG, section 11.2.2).
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
_PNG_GREY_16 = b"\x10\x00"

# --- fields, in wire order ----------------------------------------------------------------------------------------

_VERDICT_NUMBERS = {int(each): each for each in Verdict}
_ERROR_WORDS = {each.value: each for each in ErrorWord}
_FRAME_FIELDS = (
    topic_name("camera"),
    integer("session"),
    integer("frame_id"),
    integer("height", 1, MAX_SIDE_PX),
    integer("width", 1, MAX_SIDE_PX),
    choice("pixel_format", {each.value: each for each in PixelFormat}),
    integer("acquired_ns"),
    choice("clock", {each.value: each for each in Clock}, default=Clock.HOST.value),
    integer("trigger_id", default=None),
    text("part_id", MAX_PART_ID_BYTES, default=""),
    text("source", default=""),
    boolean("simulated", default=False),
    integer("payload_crc32", most=2**32 - 1, default=None),
)
_RECEIPT_FIELDS = (
    text("camera", MAX_NAME_BYTES),
    integer("session"),
    integer("frame_id"),
    boolean("accepted"),
    text("reason"),
    integer("seq"),
    choice("verdict", _VERDICT_NUMBERS),
    choice("error", _ERROR_WORDS),
)
_MAP_FIELDS = (
    text("encoding"),
    text("dtype"),
    integer("height", 1, MAX_SIDE_PX),
    integer("width", 1, MAX_SIDE_PX),
    optional_number("scale"),
    optional_number("offset"),
)
_RESULT_FIELDS = (
    text("result_id"),
    integer("seq"),
    topic_name("station"),
    topic_name("camera"),
    integer("session"),
    integer("frame_id"),
    text("error_detail"),
    optional_number("score"),
    optional_number("threshold"),
    optional_number("pixel_threshold"),
    text("product"),
    text("detector"),
    text("detector_version"),
    text("template"),
    integer("frame_height", 0, MAX_SIDE_PX),
    integer("frame_width", 0, MAX_SIDE_PX),
    integer("acquired_ns"),
    integer("received_ns"),
    integer("published_ns"),
    integer("queue_us"),
    integer("detect_us"),
    integer("latency_us"),
    integer("trigger_id", default=None),
    text("part_id"),
    text("source"),
    boolean("simulated"),
    boolean("historical"),
    text("preview", default=None),
    choice("verdict", _VERDICT_NUMBERS),
    choice("error", _ERROR_WORDS),
    integer("error_code"),
)
_RESULT_NAMES = [field.name for field in _RESULT_FIELDS if field.name != "error_code"]  # which is the word's
_MAP_NAMES = [field.name for field in _MAP_FIELDS]
_result_values, _map_values = attrgetter(*_RESULT_NAMES), attrgetter(*_MAP_NAMES)
