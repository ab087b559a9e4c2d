"""Writes the byte-level test vectors beside this file: ``python tests/vectors/make.py``.

Run once for a new vector. The committed bytes are the law: if a run changes a vector that was there before, the format
has changed, and that is a new version of the protocol, not a new vector file.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgpack

from runtime.frame import Clock, FrameHeader, PixelFormat
from runtime.inspection import ErrorWord, Inspection, MapInfo, Verdict
from runtime.trigger import TriggerHeader
from runtime.wire.header import U64
from runtime.wire.messages import Receipt, encode_frame, encode_receipt, encode_result, encode_trigger

HERE = Path(__file__).parent
Vector = dict[str, Any]

MONO8 = FrameHeader("top", 0x0123456789ABCDEF, 7, 2, 3, PixelFormat.MONO8, 1_767_225_600_000_000_000)
MONO8_PIXELS = bytes(range(0, 60, 10))
RGB8_PIXELS = bytes.fromhex("ff0000 00ff00")
RGB8 = FrameHeader(
    camera="cell-4_left",
    session=U64,
    frame_id=U64,
    height=1,
    width=2,
    pixel_format=PixelFormat.RGB8,
    acquired_ns=1_767_225_600_123_456_789,
    clock=Clock.PTP,
    trigger_id=4_294_967_296,
    part_id="SN-0001/Ä",
    source="good/000.png",
    simulated=True,
    payload_crc32=zlib.crc32(RGB8_PIXELS),
    recipe="m4-nut-left",
)
TRIGGER = TriggerHeader(camera="top", trigger_id=42, part_id="SN-0042", raised_ns=MONO8.acquired_ns - 5_000_000)
#: A 2 x 3 map, most anomalous in its last pixel; every value is exact in float16.
MAP_VALUES = (0.0, 0.125, 0.25, 0.5, 1.0, 2.5)
RAW_MAP = struct.pack("<6e", *MAP_VALUES)
#: The smallest JPEG-shaped payload: start and end of image. Receivers of a vector need not decode it.
PREVIEW = bytes.fromhex("ffd8ffd9")
OK = Inspection(
    result_id="9f86d081884c7d65-1",
    seq=1,
    station="cell-4",
    camera="top",
    session=MONO8.session,
    frame_id=7,
    verdict=Verdict.OK,
    score=0.25,
    threshold=0.5,
    pixel_threshold=0.75,
    product="m4-nut",
    detector="hetmm",
    detector_version="0.1.0",
    template="5e" * 32,
    frame_height=2,
    frame_width=3,
    acquired_ns=MONO8.acquired_ns,
    received_ns=MONO8.acquired_ns + 2_000_000,
    published_ns=MONO8.acquired_ns + 27_000_000,
    queue_us=150,
    detect_us=24_000,
    latency_us=25_000,
    map=MapInfo(encoding="raw", dtype="float16", height=2, width=3),
)


def _png16(values: tuple[int, ...], height: int, width: int) -> bytes:
    """Return a 16-bit grey PNG made by hand, so that the bytes hang on no library's version."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + struct.pack(f">{width}H", *values[y * width : (y + 1) * width]) for y in range(height))
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows
    stored += struct.pack(">I", zlib.adler32(rows))
    head = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stored) + chunk(b"IEND", b"")


def _sealed(packed: bytes) -> bytes:
    return packed + zlib.crc32(packed).to_bytes(4, "big")


def _changed(sealed: bytes, **changes: Any) -> bytes:
    """Return a header part with some fields changed; a field given as ... is left out."""
    fields = {**msgpack.unpackb(sealed[:-4]), **changes}
    return _sealed(msgpack.packb({name: value for name, value in fields.items() if value is not ...}))


def _vector(name: str, about: str, parts: list[bytes], value: Any, *, encodes: bool = True) -> Vector:
    return {
        "name": name,
        "about": about,
        "encodes": encodes,
        "parts": [part.hex() for part in parts],
        "fields": asdict(value),
    }


def frames() -> list[Vector]:
    """Return frame messages that are accepted."""
    topic, sealed = encode_frame(MONO8)
    optional = dict.fromkeys(("clock", "trigger_id", "part_id", "source", "simulated", "payload_crc32", "recipe"), ...)
    later = _changed(sealed, version=[1, 7], exposure_us=180, region={"x": 0, "y": 0})
    wide = _widened(sealed)
    return [
        _vector("mono8", "2 x 3 grey, defaults", [topic, sealed, MONO8_PIXELS], MONO8),
        _vector("rgb8_all_fields", "every field, largest numbers", [*encode_frame(RGB8), RGB8_PIXELS], RGB8),
        _vector(
            "required_only",
            "optional fields absent",
            [topic, _changed(sealed, **optional), MONO8_PIXELS],
            MONO8,
            encodes=False,
        ),
        _vector("later_minor", "unknown fields are ignored", [topic, later, MONO8_PIXELS], MONO8, encodes=False),
        _vector(
            "version_1_0", "the version before", [topic, _older(sealed, "recipe"), MONO8_PIXELS], MONO8, encodes=False
        ),
        _vector("wide_integers", "integers in 64-bit form", [topic, wide, MONO8_PIXELS], MONO8, encodes=False),
    ]


def _older(sealed: bytes, *missing: str) -> bytes:
    """Return a header as version 1.0 wrote it, without the fields it did not know."""
    return _changed(sealed, version=[1, 0], **dict.fromkeys(missing, ...))


def triggers() -> list[Vector]:
    """Return trigger messages that are accepted."""
    topic, sealed = encode_trigger(TRIGGER)
    largest = TriggerHeader(
        camera="cell-4_left", trigger_id=U64, part_id="SN-0001/Ä", recipe="m4-nut-left", raised_ns=U64,
        clock=Clock.PTP, deadline_ms=600_000, simulated=True,
    )  # fmt: skip
    bare = TriggerHeader(camera="top", trigger_id=0)
    required = _changed(encode_trigger(bare)[1], **dict.fromkeys(list(asdict(bare))[2:], ...))
    return [
        _vector("part", "a part with its serial number", [topic, sealed], TRIGGER),
        _vector("all_fields", "every field, largest numbers", encode_trigger(largest), largest),
        _vector("required_only", "optional fields absent", [topic, required], bare, encodes=False),
    ]


def _widened(sealed: bytes) -> bytes:
    """Return the header with every top-level integer as uint64, as encoders of other languages may write it."""
    fields = msgpack.unpackb(sealed[:-4])
    packed = msgpack.Packer().pack_map_header(len(fields))
    for name, value in fields.items():
        wide = b"\xcf" + value.to_bytes(8, "big") if type(value) is int else msgpack.packb(value)
        packed += msgpack.packb(name) + wide
    return _sealed(packed)


def receipts() -> list[Vector]:
    """Return receipts, accepted and refused."""
    accepted = Receipt(camera="top", session=MONO8.session, frame_id=7, accepted=True, seq=1, verdict=Verdict.OK)
    late = Receipt(
        camera="top",
        session=MONO8.session,
        frame_id=8,
        accepted=True,
        seq=2,
        verdict=Verdict.NOT_DECIDABLE,
        error=ErrorWord.DETECTOR_TIMEOUT,
    )
    refused = Receipt(camera="", session=0, frame_id=0, accepted=False, reason="header_crc")
    alone = Receipt(
        camera="top", session=0, frame_id=0, accepted=True, seq=3, verdict=Verdict.NOT_DECIDABLE,
        error=ErrorWord.CAMERA_LOST, message="trigger", trigger_id=42,
    )  # fmt: skip
    topic, sealed = encode_receipt(accepted)
    older = [topic, _older(sealed, "message", "trigger_id")]
    return [
        _vector("accepted", "the part is OK", encode_receipt(accepted), accepted),
        _vector("undecided", "no answer in time", encode_receipt(late), late),
        _vector("refused", "the header was damaged", encode_receipt(refused), refused),
        _vector("trigger", "a trigger whose frame never came", encode_receipt(alone), alone),
        _vector("version_1_0", "the version before", older, accepted, encodes=False),
    ]


def results() -> list[Vector]:
    """Return result messages: one of each verdict, one of each map encoding."""
    scored = asdict(OK) | {"result_id": "9f86d081884c7d65-2", "seq": 2, "frame_id": 8}
    scored |= {"score": 2.5, "verdict": Verdict.NOT_OK, "map": OK.map, "preview": "jpeg"}
    not_ok = Inspection(**scored)
    png = MapInfo(encoding="png16", dtype="uint16", height=2, width=3, scale=2**-15, offset=0.5)
    as_png = Inspection(**(scored | {"map": png, "preview": None}))
    blank = dict.fromkeys(("score", "threshold", "pixel_threshold", "map"))
    late = Inspection(
        **(
            asdict(OK)
            | blank
            | {"result_id": "9f86d081884c7d65-3", "seq": 3, "frame_id": 9, "verdict": Verdict.NOT_DECIDABLE}
            | {"error": ErrorWord.DETECTOR_TIMEOUT, "error_detail": "no answer within 25 ms", "detect_us": 0}
            | {"trigger_id": 41, "part_id": "SN-0003", "source": "bad/003.png", "simulated": True}
        )
    )
    alone = Inspection(
        result_id="9f86d081884c7d65-4", seq=4, station="cell-4", camera="top", session=0, frame_id=0,
        verdict=Verdict.NOT_DECIDABLE, error=ErrorWord.CAMERA_LOST, error_detail="no frame within 1000 ms",
        product="m4-nut", detector="hetmm", detector_version="0.1.0", template="5e" * 32,
        received_ns=MONO8.acquired_ns, published_ns=MONO8.acquired_ns + 1_000_000_000, latency_us=1_000_000,
        trigger_id=42, part_id="SN-0042", recipe="m4-nut", triggered_ns=TRIGGER.raised_ns,
    )  # fmt: skip
    topic, sealed = encode_result(OK)
    older = [topic, _older(sealed, "recipe", "triggered_ns"), RAW_MAP]
    pixels = _png16((0, 1, 256, 4096, 32768, 65535), 2, 3)
    return [
        _vector("ok_raw_map", "a good part", [*encode_result(OK), RAW_MAP], OK),
        _vector("not_ok_map_preview", "a bad part", [*encode_result(not_ok), RAW_MAP, PREVIEW], not_ok),
        _vector("not_ok_png16", "the map as PNG", [*encode_result(as_png), pixels], as_png),
        _vector("not_decidable", "no answer in time: no score, no map", encode_result(late), late),
        _vector("camera_lost", "a trigger whose frame never came", encode_result(alone), alone),
        _vector("version_1_0", "the version before", older, OK, encodes=False),
    ]


def _refused_frames() -> list[tuple[str, str, list[bytes]]]:
    topic, sealed = encode_frame(MONO8)
    crc = _changed(sealed, payload_crc32=zlib.crc32(MONO8_PIXELS) ^ 1)
    return [
        ("parts", "no payload part", [topic, sealed]),
        (
            "parts",
            "an empty delimiter part before the topic, as a REQ socket sends",
            [b"", topic, sealed, MONO8_PIXELS],
        ),
        ("topic", "topic of another major version", [b"ead.v2.frame", sealed, MONO8_PIXELS]),
        ("header_size", "a header of four bytes", [topic, sealed[:4], MONO8_PIXELS]),
        ("header_crc", "one bit of the map flipped", [topic, bytes([sealed[0] ^ 1]) + sealed[1:], MONO8_PIXELS]),
        ("header_crc", "checksum little-endian", [topic, sealed[:-4] + sealed[:-5:-1], MONO8_PIXELS]),
        ("header_encoding", "an array where a map is due", [topic, _sealed(msgpack.packb([1, 2])), MONO8_PIXELS]),
        ("header_encoding", "a byte behind the map", [topic, _sealed(sealed[:-4] + b"\xc0"), MONO8_PIXELS]),
        ("schema", "schema of a result", [topic, _changed(sealed, schema="edgead.result"), MONO8_PIXELS]),
        ("version", "major version 2", [topic, _changed(sealed, version=[2, 0]), MONO8_PIXELS]),
        ("version", "version as text", [topic, _changed(sealed, version="1.0"), MONO8_PIXELS]),
        ("field", "camera missing", [topic, _changed(sealed, camera=...), MONO8_PIXELS]),
        ("field", "a dot in the camera's name", [topic, _changed(sealed, camera="top.left"), MONO8_PIXELS]),
        ("field", "height 0", [topic, _changed(sealed, height=0), b""]),
        ("field", "frame_id as float", [topic, _changed(sealed, frame_id=7.0), MONO8_PIXELS]),
        ("field", "frame_id as boolean", [topic, _changed(sealed, frame_id=True), MONO8_PIXELS]),
        (
            "frame_size",
            "805 MB announced",
            [topic, _changed(sealed, height=16384, width=16384, pixel_format="rgb8"), b""],
        ),
        ("payload_size", "a row missing", [topic, sealed, MONO8_PIXELS[:3]]),
        ("payload_crc", "payload checksum wrong", [topic, crc, MONO8_PIXELS]),
    ]


def _refused_triggers() -> list[tuple[str, str, str, list[bytes]]]:
    topic, sealed = encode_trigger(TRIGGER)
    return [
        ("trigger", "parts", "a payload", [topic, sealed, b""]),
        ("trigger", "topic", "topic of a frame", [b"ead.v1.frame", sealed]),
        ("trigger", "schema", "schema of a frame", [topic, _changed(sealed, schema="edgead.frame")]),
        ("trigger", "field", "no number", [topic, _changed(sealed, trigger_id=None)]),
        ("trigger", "field", "a deadline of no time", [topic, _changed(sealed, deadline_ms=0)]),
        ("trigger", "field", "a recipe of 65 bytes", [topic, _changed(sealed, recipe="r" * 65)]),
    ]


def _refused_answers() -> list[tuple[str, str, str, list[bytes]]]:
    receipt_topic, receipt = encode_receipt(
        Receipt(camera="top", session=1, frame_id=2, accepted=True, seq=3, verdict=Verdict.NOT_OK)
    )
    topic, sealed = encode_result(OK)
    nan = struct.pack(">d", float("nan"))
    score = msgpack.packb("score") + b"\xcb" + struct.pack(">d", 0.25)
    with_nan = _sealed(sealed[:-4].replace(score, score[:-8] + nan))
    tall = _changed(sealed, map={"encoding": "png16", "dtype": "uint16", "height": 3, "width": 2})
    return [
        ("receipt", "parts", "a third part", [receipt_topic, receipt, b""]),
        ("receipt", "field", "refused, yet with a verdict", [receipt_topic, _changed(receipt, accepted=False)]),
        ("receipt", "field", "accepted without a verdict", [receipt_topic, _changed(receipt, verdict=0)]),
        ("result", "parts", "the map missing", [topic, sealed]),
        ("result", "topic", "topic of another camera", [topic + b"2", sealed, RAW_MAP]),
        ("result", "field", "OK above the threshold", [topic, _changed(sealed, score=0.75), RAW_MAP]),
        ("result", "field", "OK without a score", [topic, _changed(sealed, score=None), RAW_MAP]),
        ("result", "field", "OK with a NaN score", [topic, with_nan, RAW_MAP]),
        ("result", "field", "OK with an error", [topic, _changed(sealed, error="overload", error_code=11), RAW_MAP]),
        ("result", "field", "NotDecidable without an error word", [topic, _changed(sealed, verdict=3), RAW_MAP]),
        ("result", "field", "word and code of the error differ", [topic, _changed(sealed, error_code=3), RAW_MAP]),
        ("result", "payload_size", "half a map", [topic, sealed, RAW_MAP[:6]]),
        ("result", "payload_size", "PNG of another shape", [topic, tall, _png16((0,) * 6, 2, 3)]),
    ]


def refused() -> list[Vector]:
    """Return messages of every kind that must be refused, with the word."""
    cases = [("frame", *case) for case in _refused_frames()] + _refused_triggers() + _refused_answers()
    return [
        {"kind": kind, "refusal": word, "about": about, "parts": [part.hex() for part in parts]}
        for kind, word, about, parts in cases
    ]


def main() -> None:
    """Write the five files."""
    files = {"frame": frames(), "trigger": triggers(), "receipt": receipts(), "result": results(), "refused": refused()}
    for name, vectors in files.items():
        (HERE / f"{name}.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
