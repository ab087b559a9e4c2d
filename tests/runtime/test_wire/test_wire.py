"""The messages: the committed vectors are the law for encoders and decoders; every value comes back as it went."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import WireError
from runtime.frame import Clock, FrameHeader, PixelFormat
from runtime.inspection import ErrorWord, Inspection, MapInfo, Verdict
from runtime.trigger import TriggerHeader
from runtime.wire.header import MAX_PART_ID_BYTES, MAX_TEXT_BYTES, REFUSALS, U64
from runtime.wire.messages import (
    Receipt,
    decode_frame,
    decode_receipt,
    decode_result,
    decode_trigger,
    encode_frame,
    encode_receipt,
    encode_result,
    encode_trigger,
)

VECTORS = Path(__file__).parents[2] / "vectors"
DECODE: dict[str, Any] = {
    "frame": decode_frame, "trigger": decode_trigger, "receipt": decode_receipt, "result": decode_result,
}  # fmt: skip
ENCODE: dict[str, Any] = {
    "frame": encode_frame, "trigger": encode_trigger, "receipt": encode_receipt, "result": encode_result,
}  # fmt: skip
CLASSES: dict[str, Any] = {"frame": FrameHeader, "trigger": TriggerHeader, "receipt": Receipt, "result": Inspection}
ENUMS: dict[str, Any] = {"pixel_format": PixelFormat, "clock": Clock, "verdict": Verdict, "error": ErrorWord}


def _vectors(file: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((VECTORS / f"{file}.json").read_text())
    return vectors


def _value(kind: str, written: dict[str, Any]) -> Any:
    """Build the value a vector names: enums from their words or numbers, the map from its fields."""
    values = {name: ENUMS[name](value) if name in ENUMS else value for name, value in written.items()}
    if values.get("map"):
        values["map"] = MapInfo(**values["map"])
    return CLASSES[kind](**values)


GOOD = [pytest.param(kind, vector, id=f"{kind}-{vector['name']}") for kind in CLASSES for vector in _vectors(kind)]
REFUSED = [
    pytest.param(vector, id=f"{vector['kind']}-{vector['refusal']}-{vector['about']}") for vector in _vectors("refused")
]


@pytest.mark.parametrize(("kind", "vector"), GOOD)
def test_decoders_read_exactly_the_values_of_the_vectors(kind, vector):
    """A committed message decodes to the value written beside it, payloads untouched."""
    parts = [bytes.fromhex(part) for part in vector["parts"]]
    decoded = DECODE[kind](parts)
    value, *payloads = decoded if isinstance(decoded, tuple) else (decoded,)
    assert value == _value(kind, vector["fields"])
    assert [bytes(payload) for payload in payloads if payload is not None] == parts[2:]


@pytest.mark.parametrize(("kind", "vector"), [param for param in GOOD if param.values[1]["encodes"]])
def test_encoders_write_exactly_the_bytes_of_the_vectors(kind, vector):
    """The value written beside a committed message encodes to its topic and header, byte for byte."""
    encoded = ENCODE[kind](_value(kind, vector["fields"]))
    assert [part.hex() for part in encoded] == vector["parts"][:2]


@pytest.mark.parametrize("vector", REFUSED)
def test_decoders_refuse_the_bad_vectors_with_their_word(vector):
    """A committed bad message is refused with the word written beside it."""
    with pytest.raises(WireError) as caught:
        DECODE[vector["kind"]]([bytes.fromhex(part) for part in vector["parts"]])
    assert caught.value.reason == vector["refusal"]


def test_the_vectors_name_every_field_and_every_refusal():
    """No field is without a value in the vectors, and no word that bytes alone can trigger is without a bad one."""
    for kind, cls in CLASSES.items():
        for vector in _vectors(kind):
            assert set(vector["fields"]) == {field.name for field in fields(cls)}
    words = {vector["refusal"] for vector in _vectors("refused")}
    of_a_station = {"unknown_camera", "frame_reused", "unrecorded", "no_trigger", "late", "second", "not_ahead"}
    assert words == REFUSALS.keys() - of_a_station


def test_pixels_and_maps_are_views_of_the_parts():
    """Decoding copies no payload: what comes out is the memory that went in."""
    frame, result = _vectors("frame")[0], _vectors("result")[0]
    parts = [bytearray.fromhex(part) for part in frame["parts"]]
    _, pixels = decode_frame(parts)
    assert pixels.obj is parts[2]
    parts = [bytearray.fromhex(part) for part in result["parts"]]
    _, anomaly_map, _ = decode_result(parts)
    assert anomaly_map.obj is parts[2]


def test_a_station_may_accept_less_than_the_protocol():
    """The station's own limit refuses a frame of one byte more, and takes one that fits exactly."""
    parts = [bytes.fromhex(part) for part in _vectors("frame")[0]["parts"]]
    assert decode_frame(parts, max_payload_bytes=6)[1].nbytes == 6
    with pytest.raises(WireError, match="at most 5 bytes") as caught:
        decode_frame(parts, max_payload_bytes=5)
    assert caught.value.reason == "frame_size"


def test_a_long_error_detail_is_cut_and_still_arrives():
    """An exception's text, however long and whatever its characters, never costs the inspection it explains."""
    for detail in ("ä" * 300, "错" * 300, "\udcff broken name " * 60):
        sent = Inspection(
            result_id="r",
            seq=1,
            station="s",
            camera="c",
            session=0,
            frame_id=0,
            verdict=Verdict.NOT_DECIDABLE,
            error=ErrorWord.DETECTOR_ERROR,
            error_detail=detail,
        )
        received, _, _ = decode_result(encode_result(sent))
        assert 500 < len(received.error_detail.encode()) <= MAX_TEXT_BYTES
        assert received.error_detail[:5] == detail.replace("\udcff", "?")[:5]


@pytest.mark.parametrize("bad", [{"source": "\udcff.png"}, {"session": 2**64}, {"frame_id": -(2**63) - 1}])
def test_encoders_refuse_what_msgpack_cannot_carry(bad):
    """A file name that is no Unicode, or a number beyond 64 bits, is a ``WireError`` of the sender."""
    values = {"camera": "top", "session": 1, "frame_id": 1, "height": 1, "width": 1} | bad
    with pytest.raises(WireError) as caught:
        encode_frame(FrameHeader(**values, pixel_format=PixelFormat.MONO8, acquired_ns=0))
    assert caught.value.reason == "field"


# --- round trips ----------------------------------------------------------------------------------------------------

NAMES = st.text("abcXYZ019_-", min_size=1, max_size=64)
U64S = st.integers(0, U64)
SIDES = st.integers(1, 64)


def _texts(most: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=most).filter(lambda t: len(t.encode()) <= most)


TEXTS = _texts(MAX_TEXT_BYTES)
RECIPES = _texts(64)
FINITE = st.floats(allow_nan=False, allow_infinity=False)

FRAMES = st.builds(
    FrameHeader,
    camera=NAMES,
    session=U64S,
    frame_id=U64S,
    height=SIDES,
    width=SIDES,
    pixel_format=st.sampled_from(PixelFormat),
    acquired_ns=U64S,
    clock=st.sampled_from(Clock),
    trigger_id=st.none() | U64S,
    part_id=_texts(MAX_PART_ID_BYTES),
    source=TEXTS,
    simulated=st.booleans(),
    payload_crc32=st.none(),
    recipe=RECIPES,
)
TRIGGERS = st.builds(
    TriggerHeader,
    camera=NAMES,
    trigger_id=U64S,
    part_id=_texts(MAX_PART_ID_BYTES),
    recipe=RECIPES,
    raised_ns=st.none() | U64S,
    clock=st.sampled_from(Clock),
    deadline_ms=st.none() | st.integers(1, 600_000),
    simulated=st.booleans(),
)


@given(FRAMES)
def test_every_frame_header_comes_back(header):
    """Whatever a camera may say about a frame reaches the host unchanged."""
    pixels = bytes(header.payload_bytes)
    decoded, payload = decode_frame([*encode_frame(header), pixels])
    assert (decoded, payload) == (header, pixels)


@given(TRIGGERS)
def test_every_trigger_comes_back(header):
    """Whatever a source may say about a trigger reaches the host unchanged."""
    assert decode_trigger(encode_trigger(header)) == header


@st.composite
def inspections(draw: st.DrawFn) -> Inspection:
    """Draw any inspection the rules allow."""
    score, threshold = draw(FINITE), draw(FINITE)
    verdict = draw(st.sampled_from((Verdict.NOT_DECIDABLE, Verdict.NOT_OK if score > threshold else Verdict.OK)))
    undecided = verdict is Verdict.NOT_DECIDABLE
    words = [word for word in ErrorWord if (word is not ErrorWord.NONE) is undecided]
    map_info = st.builds(
        MapInfo,
        encoding=st.just("raw"),
        dtype=st.just("float16"),
        height=SIDES,
        width=SIDES,
        scale=FINITE,
        offset=FINITE,
    )
    return draw(
        st.builds(
            Inspection,
            result_id=TEXTS,
            seq=U64S,
            station=NAMES,
            camera=NAMES,
            session=U64S,
            frame_id=U64S,
            verdict=st.just(verdict),
            error=st.sampled_from(words),
            error_detail=TEXTS,
            score=st.just(score),
            threshold=st.just(threshold),
            pixel_threshold=st.none() | FINITE,
            frame_height=st.integers(0, 16384),
            latency_us=U64S,
            trigger_id=st.none() | U64S,
            part_id=TEXTS,
            historical=st.booleans(),
            recipe=RECIPES,
            triggered_ns=st.none() | U64S,
            map=st.none() | map_info,
            preview=st.none() | st.just("jpeg"),
        )
    )


@given(inspections())
def test_every_inspection_comes_back(inspection):
    """Whatever a host may publish reaches a subscriber unchanged, score and threshold to the last bit."""
    payloads = [bytes(inspection.map.height * inspection.map.width * 2)] if inspection.map else []
    payloads += [b"\xff\xd8"] if inspection.preview else []
    decoded, anomaly_map, preview = decode_result([*encode_result(inspection), *payloads])
    assert decoded == inspection
    assert [payload for payload in (anomaly_map, preview) if payload is not None] == payloads


@given(st.booleans(), st.sampled_from(Verdict), st.sampled_from(ErrorWord), st.sampled_from(["", *REFUSALS]), U64S)
def test_a_receipt_comes_back_or_cannot_be_built(accepted, verdict, error, reason, number):
    """Every receipt that can exist comes back; one that mixes refusal and verdict cannot exist."""
    values = {"camera": "top", "session": number, "frame_id": U64 - number, "accepted": accepted, "reason": reason}
    values |= {"verdict": verdict, "error": error, "seq": number, "message": "trigger", "trigger_id": number}
    undecided = error is not ErrorWord.NONE
    if bool(reason) is accepted or (verdict != 0) is not accepted or (verdict == 3) is not undecided:
        with pytest.raises(ValueError, match="found"):
            Receipt(**values)
    else:
        assert decode_receipt(encode_receipt(Receipt(**values))) == Receipt(**values)


def test_an_integer_score_is_a_number():
    """A score written as msgpack integer by a terse encoder is read as the float it means."""
    ok = _value("result", _vectors("result")[0]["fields"])
    terse = Inspection(**{f.name: getattr(ok, f.name) for f in fields(ok)} | {"score": 0, "threshold": 1, "map": None})
    decoded, _, _ = decode_result(encode_result(terse))
    assert (type(decoded.score), decoded.score, decoded.threshold) == (float, 0.0, 1.0)
