"""The one place that says what a published result shows: every protocol's layout is generated from ``RESULT_FIELDS``.

A row is one field: its name (the key in JSON), type, unit, meaning, OPC UA node, Sparkplug metric and, where the 40
registers of the Modbus image have room for it, its register. Publishers, JSON Schema and the tables of the
documentation read this list and nothing else, so a field cannot be missing in one of them. No protocol library here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias

from runtime.inspection import Inspection

#: Name and major version of the JSON record.
SCHEMA = "edgead.result/1"
Value: TypeAlias = int | float | str | bool | None


class Kind(StrEnum):
    """Type of a field: what JSON, OPC UA and Sparkplug carry it as."""

    UINT = "uint"
    """0..2^64-1: integer, UInt64, UInt64."""
    FLOAT = "float"
    """Finite IEEE 754 binary64: number, Double, Double."""
    TEXT = "text"
    """UTF-8: string, String, String."""
    BOOL = "bool"
    """true or false: boolean, Boolean, Boolean."""


class RegisterKind(StrEnum):
    """How a value lies in 16-bit registers, the most significant word and byte first."""

    U16 = "u16"
    """The value, or 65535 if it is larger."""
    U32 = "u32"
    """The lower 32 bits of the value; 0 for none."""
    F32 = "f32"
    """IEEE 754 binary32; NaN for none."""
    TEXT32 = "text32"
    """32 bytes of UTF-8, padded with NUL."""
    HEX32 = "hex32"
    """The first eight of a value's hexadecimal digits, as a number; 0 for none."""
    NUMBER = "number"
    """A text's number by the publisher's own table; 0: it has none."""


#: Registers a value of each kind takes.
WORDS = {
    RegisterKind.U16: 1, RegisterKind.U32: 2, RegisterKind.F32: 2, RegisterKind.TEXT32: 16, RegisterKind.HEX32: 2,
    RegisterKind.NUMBER: 1,
}  # fmt: skip
_MOST_U16, _MASK_U32 = 0xFFFF, 0xFFFF_FFFF
_TEXT_BYTES = 32
_HEX_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Register:
    """Where a field lies in the Modbus image. ``divisor``: the register counts this many of the field's units."""

    address: int
    kind: RegisterKind
    divisor: int = 1

    @property
    def words(self) -> int:
        """Registers it takes."""
        return WORDS[self.kind]

    def pack(self, value: Value, numbers: Mapping[str, int]) -> list[int]:
        """Return the registers, each 0..65535; ``numbers``: the table of ``RegisterKind.NUMBER``."""
        match self.kind:
            case RegisterKind.F32:
                return _words(struct.pack(">f", float("nan") if value is None else _narrow(float(value))))
            case RegisterKind.TEXT32:
                cut = str(value or "").encode()[:_TEXT_BYTES].decode(errors="ignore")
                return _words(cut.encode().ljust(_TEXT_BYTES, b"\0"))
            case RegisterKind.HEX32:
                digits = str(value or "")[:_HEX_DIGITS]
                return _words(int(digits or "0", 16).to_bytes(4, "big"))
            case RegisterKind.NUMBER:
                return [numbers.get(str(value or ""), 0)]
        whole = int(value or 0) // self.divisor
        if self.kind is RegisterKind.U16:
            return [min(whole, _MOST_U16)]
        return _words((whole & _MASK_U32).to_bytes(4, "big"))


def _words(data: bytes) -> list[int]:
    return list(struct.unpack(f">{len(data) // 2}H", data))


def _narrow(number: float) -> float:
    """Return a number binary32 can hold: struct refuses larger ones, and a PLC knows infinity."""
    most = 3.4028234663852886e38
    return number if abs(number) <= most else float("inf") if number > 0 else float("-inf")


@dataclass(frozen=True, slots=True)
class ResultField:
    """One field of a published result; ``read`` takes it from the inspection (and whether it comes late)."""

    name: str
    kind: Kind
    metric: str
    meaning: str
    unit: str = ""
    optional: bool = False
    """May be absent: null in JSON and OPC UA, a null metric in Sparkplug."""
    register: Register | None = None
    read: Callable[[Inspection, bool], Value] | None = None

    @property
    def node(self) -> str:
        """Browse name of the OPC UA node: the name in the spelling of OPC UA."""
        return "".join(part.capitalize() for part in self.name.split("_"))

    def value(self, inspection: Inspection, *, historical: bool) -> Value:
        """Return the field's value; ``historical``: the result is not shown live."""
        if self.read is not None:
            return self.read(inspection, historical)
        found: Value = getattr(inspection, self.name)
        return int(found) if self.kind is Kind.UINT and found is not None else found


def _published(inspection: Inspection, _historical: bool) -> str:
    seconds, nanoseconds = divmod(inspection.published_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _detector_digest(inspection: Inspection, _historical: bool) -> int:
    name = f"{inspection.detector} {inspection.detector_version}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:4], "big")


_U, _F, _T, _B = Kind.UINT, Kind.FLOAT, Kind.TEXT, Kind.BOOL
_R = RegisterKind

#: Every field, in the order of JSON and of the documentation.
RESULT_FIELDS: tuple[ResultField, ...] = (
    ResultField("result_id", _T, "Result/Id", "names the result; tell repetitions by it"),
    ResultField("seq", _U, "Result/Seq", "number of the result in the order of publication, from 1, without a gap",
                register=Register(4, _R.U32)),
    ResultField("station", _T, "Result/Station", "name of the station"),
    ResultField("camera", _T, "Result/Camera", "name of the camera"),
    ResultField("trigger_id", _U, "Result/TriggerId", "number the trigger source gave", optional=True,
                register=Register(6, _R.U32)),
    ResultField("part_id", _T, "Result/PartId", "serial number or the like, as the trigger or frame brought it",
                register=Register(8, _R.TEXT32)),
    ResultField("verdict", _U, "Result/Verdict", "OPC 40001-101: 1 OK, 2 NotOK, 3 NotDecidable; any other is not OK",
                register=Register(24, _R.U16), read=lambda each, _: int(each.verdict)),
    ResultField("verdict_name", _T, "Result/VerdictName", "the same in words: OK, NotOK, NotDecidable",
                read=lambda each, _: each.verdict.label),
    ResultField("error", _T, "Result/Error", "why it was not decidable, one word; none otherwise",
                read=lambda each, _: each.error.value),
    ResultField("error_code", _U, "Result/ErrorCode", "number of the error word; 0 for none",
                register=Register(3, _R.U16), read=lambda each, _: each.error.code),
    ResultField("error_detail", _T, "Result/ErrorDetail", "a sentence for people; never parse it"),
    ResultField("score", _F, "Result/Score", "image score, raw: higher = more anomalous; absent unless decided",
                optional=True, register=Register(25, _R.F32)),
    ResultField("threshold", _F, "Result/Threshold", "NotOK when score > threshold; absent unless decided",
                optional=True, register=Register(27, _R.F32)),
    ResultField("pixel_threshold", _F, "Result/PixelThreshold", "map values above it are defect pixels", optional=True),
    ResultField("recipe", _T, "Result/Recipe", "recipe the trigger or frame asked for; empty: the current one",
                register=Register(30, _R.NUMBER)),
    ResultField("product", _T, "Template/Product", "product the template was made for"),
    ResultField("detector", _T, "Detector/Name", "name of the detector"),
    ResultField("detector_version", _T, "Detector/Version", "its version"),
    ResultField("detector_digest", _U, "Detector/Digest", 'first 32 bits of the SHA-256 of "NAME VERSION"',
                register=Register(31, _R.U32), read=_detector_digest),
    ResultField("template", _T, "Template/Digest", "digest of the template's content (sha256, hex)",
                register=Register(33, _R.HEX32)),
    ResultField("session", _U, "Frame/Session", "random number of the camera's start"),
    ResultField("frame_id", _U, "Frame/Id", "number of the frame within the session"),
    ResultField("frame_height", _U, "Frame/Height", "rows of the frame", "px"),
    ResultField("frame_width", _U, "Frame/Width", "columns of the frame", "px"),
    ResultField("triggered_ns", _U, "Time/Triggered", "when its trigger was raised, on that source's clock", "ns",
                optional=True),
    ResultField("acquired_ns", _U, "Time/Acquired", "when the exposure began, on the camera's clock", "ns"),
    ResultField("received_ns", _U, "Time/Received", "when the host took the frame in, UTC since 1970", "ns"),
    ResultField("published_ns", _U, "Time/Published", "when the result was published, UTC since 1970", "ns"),
    ResultField("published", _T, "Time/PublishedText", "the same as RFC 3339", read=_published),
    ResultField("queue_us", _U, "Time/Queue", "time the frame waited for the detector", "us"),
    ResultField("detect_us", _U, "Time/Detect", "time the detector spent on it", "us"),
    ResultField("latency_us", _U, "Time/Latency", "from taken in to published", "us",
                register=Register(35, _R.U16, divisor=100)),
    ResultField("source", _T, "Result/Source", "where a replayed frame came from; empty for a live camera"),
    ResultField("simulated", _B, "Result/Simulated", "not a real part"),
    ResultField("historical", _B, "Result/Historical", "shown later than live, from the record",
                read=lambda _, historical: historical),
)  # fmt: skip

#: Fields of an inspection that no protocol here shows, and why.
NOT_SHOWN = {
    "map": "an array; take it from the ZeroMQ deliveries or the station's evidence",
    "preview": "a picture for displays, on the live ZeroMQ stream only",
}


def result_values(inspection: Inspection, *, historical: bool) -> dict[str, Value]:
    """Return every field's value by name, in the order of ``RESULT_FIELDS``: what all protocols show."""
    return {each.name: each.value(inspection, historical=historical) for each in RESULT_FIELDS}


_JSON_TYPES = {Kind.UINT: "integer", Kind.FLOAT: "number", Kind.TEXT: "string", Kind.BOOL: "boolean"}


def result_schema() -> dict[str, Any]:
    """Return the JSON Schema of a result as MQTT and webhooks carry it: ``{"schema": SCHEMA, **result_values()}``."""
    properties: dict[str, Any] = {"schema": {"const": SCHEMA, "description": "name and version of this record"}}
    for each in RESULT_FIELDS:
        kind: Any = _JSON_TYPES[each.kind]
        described = each.meaning + (f" [{each.unit}]" if each.unit else "")
        properties[each.name] = {"type": [kind, "null"] if each.optional else kind, "description": described}
        if each.kind is Kind.UINT:
            properties[each.name]["minimum"] = 0
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edgead result",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
