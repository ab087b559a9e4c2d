"""The one list of result fields: nothing of an inspection is missing in it, and every protocol has all of it."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.result_fields import NOT_SHOWN, RESULT_FIELDS, Register, RegisterKind, result_schema, result_values

OK = Inspection(
    result_id="r-1", seq=2**32 + 5, station="s", camera="c", session=2**64 - 1, frame_id=3, verdict=Verdict.OK,
    score=0.5, threshold=1.0, part_id="P-ß", detector="hetmm", detector_version="1.0", template="0123456789abcdef" * 4,
    published_ns=1_800_000_000_000_000_001, latency_us=12_345, trigger_id=7,
)  # fmt: skip


def test_no_field_of_an_inspection_is_missing():
    """Every field of the record is shown under its own name, or listed with the reason why not."""
    shown = {each.name for each in RESULT_FIELDS}
    record = {each.name for each in fields(Inspection)}
    assert record - shown == set(NOT_SHOWN)
    assert all(NOT_SHOWN.values())


def test_every_name_is_its_own():
    """No two fields share a JSON key, a node or a metric, and each says what it means."""
    for names in zip(*((each.name, each.node, each.metric) for each in RESULT_FIELDS), strict=True):
        assert len(set(names)) == len(names)
    assert all(each.meaning for each in RESULT_FIELDS)


def test_the_values_are_the_inspections():
    """Values are those of the record; verdict and error are numbers and words, late is what the publisher says."""
    values = result_values(OK, historical=True)
    assert list(values) == [each.name for each in RESULT_FIELDS]
    assert (values["verdict"], values["verdict_name"], values["error"], values["error_code"]) == (1, "OK", "none", 0)
    assert (values["historical"], values["seq"], values["session"]) == (True, 2**32 + 5, 2**64 - 1)
    assert values["published"] == "2027-01-15T08:00:00.000000001Z"
    assert json.loads(json.dumps(values)) == values


def test_absent_values_are_where_the_schema_allows_them():
    """What an undecided inspection has not got is null, only in fields the JSON Schema lets be null, all required."""
    lost = Inspection(
        result_id="r", seq=1, station="s", camera="c", session=0, frame_id=0, verdict=Verdict.NOT_DECIDABLE,
        error=ErrorWord.CAMERA_LOST,
    )  # fmt: skip
    schema = result_schema()
    null = {name for name, value in result_values(lost, historical=False).items() if value is None}
    assert null == {name for name, each in schema["properties"].items() if "null" in each.get("type", ())}
    assert schema["required"] == list(schema["properties"])


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (RegisterKind.U16, 70_000, [65_535]),
        (RegisterKind.U16, None, [0]),
        (RegisterKind.U32, 2**32 + 5, [0, 5]),
        (RegisterKind.F32, None, [0x7FC0, 0]),
        (RegisterKind.F32, 1e300, [0x7F80, 0]),
        (RegisterKind.HEX32, "deadbeef00", [0xDEAD, 0xBEEF]),
        (RegisterKind.HEX32, "", [0, 0]),
        (RegisterKind.NUMBER, "nut", [9]),
        (RegisterKind.NUMBER, "other", [0]),
        (RegisterKind.TEXT32, "A" * 31 + "ß", [0x4141] * 15 + [0x4100]),
    ],
)
def test_registers_hold_what_fits(kind, value, words):
    """Numbers beyond a register saturate or lose their upper half as documented; text is cut between characters."""
    assert Register(0, kind).pack(value, {"nut": 9}) == words


@given(st.floats(allow_nan=False))
def test_a_score_survives_as_binary32(score):
    """Any finite score becomes the nearest binary32, never an error."""
    words = Register(0, RegisterKind.F32).pack(score, {})
    back = struct.unpack(">f", struct.pack(">2H", *words))[0]
    assert back == pytest.approx(score, rel=1e-6, abs=1e-38) or (math.isinf(back) and abs(score) > 3e38)
