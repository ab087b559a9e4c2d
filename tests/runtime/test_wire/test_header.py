"""Header parts: hostile bytes are refused with a word, cheaply, and every kind of field tells types apart."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import WireError
from runtime.wire.header import (
    MAX_ELEMENTS,
    MAX_HEADER_BYTES,
    REFUSALS,
    U64,
    VERSION,
    Field,
    boolean,
    choice,
    clip_text,
    integer,
    is_name,
    open_header,
    optional_number,
    read_fields,
    seal,
    text,
    topic_name,
)


def sealed(packed: bytes) -> bytes:
    """Return ``packed`` with its checksum, whatever it is."""
    return packed + zlib.crc32(packed).to_bytes(4, "big")


def refusal(part: bytes) -> str:
    """Return the word ``part`` is refused with."""
    with pytest.raises(WireError) as caught:
        open_header(part, "edgead.test")
    return caught.value.reason


def test_the_checksum_is_the_one_of_zlib():
    """The CRC-32 has the check value every catalogue lists for "123456789", and stands big-endian behind the map."""
    assert zlib.crc32(b"123456789") == 0xCBF43926
    part = seal("edgead.test", {})
    assert part[-4:] == zlib.crc32(part[:-4]).to_bytes(4, "big")


def test_a_sealed_header_opens():
    """What ``seal`` wrote, ``open_header`` reads, with schema and version in front."""
    opened = open_header(seal("edgead.test", {"a": 1, "b": [1, {"c": None}]}), "edgead.test")
    assert opened == {"schema": "edgead.test", "version": list(VERSION), "a": 1, "b": [1, {"c": None}]}


@pytest.mark.parametrize("size", [0, 1, 4, MAX_HEADER_BYTES + 1])
def test_size_is_checked_first(size):
    """A part too short to hold a checksum or longer than the limit is refused before anything is read."""
    assert refusal(bytes(size)) == "header_size"


def test_the_largest_header_is_accepted_and_one_byte_more_is_not():
    """The limit counts the checksum, for the sender as for the receiver."""
    room = MAX_HEADER_BYTES - len(seal("edgead.test", {"x": "a" * 1000})) + 1000
    assert len(seal("edgead.test", {"x": "a" * room})) == MAX_HEADER_BYTES
    open_header(seal("edgead.test", {"x": "a" * room}), "edgead.test")
    with pytest.raises(WireError) as caught:
        seal("edgead.test", {"x": "a" * (room + 1)})
    assert caught.value.reason == "header_size"


FILLER = b"\xc0" * 7000
HOSTILE = {
    "empty map cut off": b"\x81",
    "not a map": msgpack.packb([1]),
    "nil": b"\xc0",
    "never used byte": b"\xc1",
    "integer keys": msgpack.packb({1: 2}),
    "binary keys": msgpack.packb({b"schema": "edgead.test"}),
    "trailing byte": msgpack.packb({"schema": "edgead.test"}) + b"\x00",
    "two maps": msgpack.packb({}) * 2,
    "ext value": msgpack.packb({"a": msgpack.ExtType(5, b"xx")}),
    "timestamp": msgpack.packb({"a": msgpack.Timestamp(1, 1)}),
    "empty ext": b"\x81\xa1a\xc7\x00\x05" + b"\x01",
    "text that is not UTF-8": b"\x81\xa1a\xa2\xff\xfe",
    "surrogate in UTF-8": b"\x81\xa1a\xa3\xed\xa0\x80",
    "4 GiB of text announced": b"\x81\xa1a\xdb\xff\xff\xff\xff" + FILLER,
    "4 GiB of bytes announced": b"\x81\xa1a\xc6\xff\xff\xff\xff" + FILLER,
    "2**32 elements announced": b"\x81\xa1a\xdd\xff\xff\xff\xff" + FILLER,
    "2**32 entries announced": b"\xdf\xff\xff\xff\xff" + FILLER,
    "4 GiB ext announced": b"\x81\xa1a\xc9\xff\xff\xff\xff\x05" + FILLER,
    "an array of one element too many": msgpack.packb({"a": [0] * (MAX_ELEMENTS + 1)}),
    "a map of one entry too many": msgpack.packb({str(i): 0 for i in range(MAX_ELEMENTS + 1)}),
    "nested arrays": b"\x81\xa1a" + b"\x91" * 8000 + b"\xc0",
    "nested maps": b"\x81\xa1a" * 2000 + b"\xc0",
    "nested arrays of many": b"\x81\xa1a" + b"\xdc\x01\x00" * 1000 + b"\xc0" * 5000,
    "nested arrays of very many": b"\x81\xa1a" + b"\xdc\x1f\x00" * 1000 + b"\xc0" * 5000,
}


@pytest.mark.parametrize("packed", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_msgpack_is_refused_without_memory(packed):
    """Whatever a header announces, it is refused as no map, and reading it takes less than 4 MiB."""
    tracemalloc.start()
    try:
        assert refusal(sealed(packed)) == "header_encoding"
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [1, 10, 100, 500])
def test_deep_nesting_in_an_unknown_field_is_ignored(depth):
    """A nested value in a field this side does not know is stepped over; where a number is due its type is shown."""
    nested: Any = 0
    for _ in range(depth):
        nested = [nested]
    fields = open_header(seal("edgead.test", {"a": nested}), "edgead.test")
    with pytest.raises(WireError, match="found list"):
        read_fields(fields, [integer("a")])


@pytest.mark.parametrize("schema", [None, 1, "edgead.other", ["edgead.test"], b"edgead.test", "edgead.test "])
def test_another_schema_is_refused(schema):
    """Only the exact schema opens, as text."""
    assert refusal(sealed(msgpack.packb({"schema": schema, "version": [1, 0]}))) == "schema"


@pytest.mark.parametrize(
    "version",
    [None, 1, 1.0, "1.0", [], [1], [1, 0, 0], [True, 0], [1, False], [1.0, 0], [1, "0"], [0, 9], [2, 0], [1, -1]],
)
def test_another_version_is_refused(version):
    """Only [1, minor] opens; a boolean or a float is no version number."""
    assert refusal(sealed(msgpack.packb({"schema": "edgead.test", "version": version}))) == "version"


@given(st.integers(0, U64))
def test_every_minor_version_opens(minor):
    """A later minor version of the same major is read."""
    part = sealed(msgpack.packb({"schema": "edgead.test", "version": [1, minor], "new": 1}))
    assert open_header(part, "edgead.test")["new"] == 1


WRONG: dict[str, tuple[Field, list[Any]]] = {
    "integer": (integer("x", 1, 10), [None, 0, 11, -1, 1.0, True, "1", b"1", [], {}, U64]),
    "u64": (integer("x"), [None, -1, U64 + 1, 0.0, False, "0"]),
    "optional integer": (integer("x", most=5, default=None), [6, -1, True, 1.0, "", []]),
    "optional number": (optional_number("x"), [float("nan"), float("inf"), -float("inf"), True, "1", []]),
    "boolean": (boolean("x", default=False), [None, 0, 1, "true", []]),
    "text": (text("x", 3), [None, 1, b"a", "abcd", "ää", ["a"]]),
    "optional text": (text("x", default=None), [1, b"a", "a" * 513, True]),
    "name": (topic_name("x"), [None, "", "a.b", "a b", "ä", "a" * 65, "a\n", 1, b"a", ["a"]]),
    "word": (choice("x", {"a": 1, "b": 2}), [None, "", "c", "A", 1, ["a"], b"a"]),
    "number": (choice("x", {1: "a", 2: "b"}), [None, 0, 3, True, 1.0, "1", [1]]),
}
RIGHT: dict[str, list[tuple[Any, Any]]] = {
    "integer": [(1, 1), (10, 10)],
    "u64": [(0, 0), (U64, U64)],
    "optional integer": [(0, 0), (5, 5), (None, None)],
    "optional number": [(0.5, 0.5), (2, 2.0), (U64, float(U64)), (None, None)],
    "boolean": [(True, True), (False, False)],
    "text": [("", ""), ("abc", "abc"), ("ä", "ä")],
    "optional text": [("", ""), ("a" * 512, "a" * 512), (None, None)],
    "name": [("a", "a"), ("A-z_09", "A-z_09"), ("a" * 64, "a" * 64)],
    "word": [("a", 1), ("b", 2)],
    "number": [(1, "a"), (2, "b")],
}


@pytest.mark.parametrize(
    ("field", "value"), [pytest.param(f, v, id=f"{n}-{v!r}"[:40]) for n, (f, vs) in WRONG.items() for v in vs]
)
def test_a_field_of_another_type_or_range_is_refused(field, value):
    """Every kind refuses the neighbours of what it wants: booleans for integers, bytes for text, NaN for numbers."""
    with pytest.raises(WireError, match="x: expected") as caught:
        read_fields({"x": value}, [field])
    assert caught.value.reason == "field"


@pytest.mark.parametrize(
    ("kind", "value", "expected"), [(kind, *pair) for kind, pairs in RIGHT.items() for pair in pairs]
)
def test_a_field_as_wanted_is_read(kind, value, expected):
    """Every kind reads what it wants up to its limits, as the type it promises."""
    (found,) = read_fields({"x": value}, [WRONG[kind][0]]).values()
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("kind", ["integer", "u64", "text", "name", "word", "number"])
def test_a_required_field_must_be_there(kind):
    """A required field that is absent is named."""
    with pytest.raises(WireError, match="x is missing"):
        read_fields({"y": 1}, [WRONG[kind][0]])


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (integer("x", default=None), None),
        (optional_number("x"), None),
        (text("x", default=None), None),
        (text("x", default=""), ""),
        (boolean("x", default=False), False),
        (choice("x", {"a": 1}, default="a"), 1),
    ],
)
def test_an_absent_field_is_its_default(field, expected):
    """What a field may leave out is read as its default; nil is the same only where the default is nil."""
    assert read_fields({}, [field]) == {"x": expected}
    if expected is None:
        assert read_fields({"x": None}, [field]) == {"x": None}
    else:
        with pytest.raises(WireError, match="x: expected"):
            read_fields({"x": None}, [field])


def test_the_first_wrong_field_is_the_one_refused():
    """Fields are read in order; what no field asks for is not looked at."""
    header = {"a": 1, "b": "wrong", "c": "wrong too", "d": b"unknown"}
    with pytest.raises(WireError, match="b: expected"):
        read_fields(header, [integer("a"), integer("b"), integer("c")])
    assert read_fields(header, [text("c"), integer("a")]) == {"c": "wrong too", "a": 1}


@given(st.text(max_size=80), st.integers(0, 40))
def test_clipped_text_fits_and_keeps_its_beginning(text, most):
    """Cut text is a prefix of the original, within the given bytes, cut between two characters."""
    clipped, clean = clip_text(text, most), text.encode("utf-8", "replace").decode()
    assert clean.startswith(clipped)
    assert min(len(clean.encode()), most) - 4 < len(clipped.encode()) <= most


@given(st.text(max_size=70))
def test_a_name_never_breaks_a_topic(text):
    """What counts as a name has no dot, no space and no byte beyond ASCII."""
    if is_name(text):
        assert text.isascii()
        assert not set(text) & set(". \n\0/")
        assert 1 <= len(text) <= 64


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_open_or_are_refused(data, checksum):
    """Bytes at random give a map or a ``WireError`` with a known word, never anything else."""
    try:
        outcome = open_header(sealed(data) if checksum else data, "edgead.test")["schema"]
    except WireError as refused:
        outcome = refused.reason
    assert outcome in {*REFUSALS, "edgead.test"}
