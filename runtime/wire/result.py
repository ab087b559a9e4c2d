"""The result message: an inspection, its anomaly map and its preview, from bytes to values. No socket in this file.

A part of ``runtime.wire.messages``, whose rules hold here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from runtime.errors import WireError
from runtime.inspection import ErrorWord, Inspection, MapInfo, Verdict
from runtime.wire.header import (
    MAX_RECIPE_BYTES,
    MAX_SIDE_PX,
    Buffer,
    boolean,
    choice,
    clip_text,
    expect_parts,
    integer,
    open_header,
    optional_number,
    read_fields,
    seal,
    text,
    topic_name,
)

RESULT_TOPIC_PREFIX = b"ead.v1.result."
RESULT_SCHEMA = "edgead.result"

#: What the numbers and words of a header stand for.
VERDICT_NUMBERS = {int(each): each for each in Verdict}
ERROR_WORDS = {each.value: each for each in ErrorWord}


def result_topic(station: str, camera: str) -> bytes:
    """Return ``ead.v1.result.<station>.<camera>``."""
    return RESULT_TOPIC_PREFIX + f"{station}.{camera}".encode()


def encode_result(inspection: Inspection) -> list[bytes]:
    """Return the first two parts of a result message; the caller appends the map and the preview it names.

    ``error_detail`` is cut to what the field holds: an exception's text must not cost the inspection it explains.
    """
    fields = dict(zip(_RESULT_NAMES, _result_values(inspection), strict=True))
    if inspection.error_detail:
        fields["error_detail"] = clip_text(inspection.error_detail)
    fields["error_code"] = inspection.error.code
    fields["map"] = None if inspection.map is None else dict(zip(_MAP_NAMES, _map_values(inspection.map), strict=True))
    return [result_topic(inspection.station, inspection.camera), seal(RESULT_SCHEMA, fields)]


def decode_result(parts: Sequence[Buffer]) -> tuple[Inspection, memoryview | None, memoryview | None]:
    """Return inspection, map payload and preview payload of a result message; raises ``WireError`` only."""
    expect_parts(parts, 2, 4)
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
    choice("verdict", VERDICT_NUMBERS),
    choice("error", ERROR_WORDS),
    integer("error_code"),
    text("recipe", MAX_RECIPE_BYTES, default=""),  # since 1.1, as all that follows: the ledger holds results without
    integer("triggered_ns", default=None),
)
_RESULT_NAMES = [field.name for field in _RESULT_FIELDS if field.name != "error_code"]  # which is the word's
_MAP_NAMES = [field.name for field in _MAP_FIELDS]
_result_values, _map_values = attrgetter(*_RESULT_NAMES), attrgetter(*_MAP_NAMES)
