"""Damaged and hostile messages: decoders give a value or a ``WireError`` with a known word, nothing else."""

from __future__ import annotations

import json
import math
import tracemalloc
import zlib
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import WireError
from runtime.wire.header import MAX_SIDE_PX, REFUSALS, U64
from runtime.wire.messages import (
    FRAME_TOPIC,
    RECEIPT_TOPIC,
    RESULT_TOPIC_PREFIX,
    TRIGGER_TOPIC,
    decode_frame,
    decode_receipt,
    decode_result,
    decode_trigger,
)

DECODE: dict[str, Any] = {
    "frame": decode_frame, "trigger": decode_trigger, "receipt": decode_receipt, "result": decode_result,
}  # fmt: skip
VECTORS = Path(__file__).parents[2] / "vectors"
MESSAGES = [
    pytest.param(kind, [bytes.fromhex(part) for part in vector["parts"]], id=f"{kind}-{vector['name']}")
    for kind in DECODE
    for vector in json.loads((VECTORS / f"{kind}.json").read_text())
]
every_message = pytest.mark.parametrize(("kind", "parts"), MESSAGES)


def refusal(kind: str, parts: list[bytes]) -> str | None:
    """Return the word the message is refused with, None if it is read; any other exception is a test failure."""
    try:
        DECODE[kind](parts)
    except WireError as error:
        return error.reason
    return None


def changed(sealed: bytes, **changes: Any) -> bytes:
    """Return the header part with some fields changed and a right checksum; a field given as ... is left out."""
    fields = {**msgpack.unpackb(sealed[:-4]), **changes}
    packed: bytes = msgpack.packb({name: value for name, value in fields.items() if value is not ...})
    return packed + zlib.crc32(packed).to_bytes(4, "big")


def damaged(parts: list[bytes], index: int, part: bytes) -> list[bytes]:
    """Return the message with one part replaced."""
    return [*parts[:index], part, *parts[index + 1 :]]


@every_message
def test_every_prefix_of_topic_and_header_is_refused(kind, parts):
    """A topic or a header cut anywhere is refused."""
    for length in range(len(parts[0])):
        assert refusal(kind, damaged(parts, 0, parts[0][:length])) == "topic"
    for length in range(len(parts[1])):
        expected = "header_size" if length < 5 else "header_crc"
        assert refusal(kind, damaged(parts, 1, parts[1][:length])) == expected


@every_message
def test_every_flipped_bit_of_topic_and_header_is_refused(kind, parts):
    """One wrong bit anywhere before the payload is refused: the checksum leaves none out."""
    for index, word in ((0, "topic"), (1, "header_crc")):
        for position in range(len(parts[index])):
            for bit in range(8):
                part = bytearray(parts[index])
                part[position] ^= 1 << bit
                assert refusal(kind, damaged(parts, index, bytes(part))) == word


SIZED = [param for param in MESSAGES if len(param.values[1]) > 2 and param.id != "result-not_ok_png16"]


@pytest.mark.parametrize(("kind", "parts"), SIZED)
def test_cut_or_lengthened_pixels_and_raw_maps_are_refused(kind, parts):
    """Pixels and raw maps have exactly one right length."""
    for length in range(len(parts[2])):
        assert refusal(kind, damaged(parts, 2, parts[2][:length])) == "payload_size"
    assert refusal(kind, damaged(parts, 2, parts[2] + b"\0")) == "payload_size"


@every_message
def test_a_byte_behind_topic_or_header_is_refused(kind, parts):
    """Trailing junk is not skipped."""
    assert refusal(kind, damaged(parts, 0, parts[0] + b"\0")) == "topic"
    assert refusal(kind, damaged(parts, 1, parts[1] + b"\0")) == "header_crc"


@every_message
def test_dropped_doubled_and_reordered_parts_are_refused(kind, parts):
    """Only the parts in their order are the message; no other selection of them is."""
    others = [list(few) for size in range(len(parts)) for few in combinations(parts, size)]
    others += [[*parts[: i + 1], *parts[i:]] for i in range(len(parts))]
    # Two payloads of one message look alike to a decoder only if nothing fixes their size; none of the vectors is so.
    others += [list(order) for order in permutations(parts) if list(order) != parts]
    for other in others:
        assert refusal(kind, other) in REFUSALS


def test_every_flipped_bit_of_checked_pixels_is_refused():
    """With ``payload_crc32`` one wrong bit in the pixels is refused."""
    parts = next(param.values[1] for param in MESSAGES if param.id == "frame-rgb8_all_fields")
    for position in range(len(parts[2])):
        for bit in range(8):
            pixels = bytearray(parts[2])
            pixels[position] ^= 1 << bit
            assert refusal("frame", damaged(parts, 2, bytes(pixels))) == "payload_crc"


@pytest.mark.parametrize("height", [1, 100, MAX_SIDE_PX, MAX_SIDE_PX + 1, 2**31, 2**32, U64])
@pytest.mark.parametrize("width", [100, MAX_SIDE_PX, U64])
@pytest.mark.parametrize("pixel_format", ["mono8", "rgb8"])
def test_huge_sizes_are_refused_without_memory(height, width, pixel_format):
    """A frame that announces gigabytes and brings six bytes is refused, and nothing is reserved for it."""
    parts = MESSAGES[0].values[1]
    header = changed(parts[1], height=height, width=width, pixel_format=pixel_format)
    tracemalloc.start()
    try:
        assert refusal("frame", damaged(parts, 1, header)) in {"field", "frame_size", "payload_size"}
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(0, 3), (2, MAX_SIDE_PX + 1), (MAX_SIDE_PX, MAX_SIDE_PX), (3, 2), (U64, 1)])
def test_a_map_of_another_shape_is_refused_before_it_is_decoded(shape):
    """Neither a raw map nor a PNG map may be of another shape than the header says."""
    for name in ("result-ok_raw_map", "result-not_ok_png16"):
        parts = next(param.values[1] for param in MESSAGES if param.id == name)
        described = msgpack.unpackb(parts[1][:-4])["map"] | {"height": shape[0], "width": shape[1]}
        word = refusal("result", damaged(parts, 1, changed(parts[1], map=described)))
        # A raw map of 3 x 2 holds as many bytes as one of 2 x 3: only a PNG knows its shape.
        assert word in ({None} if name.endswith("raw_map") and shape == (3, 2) else {"field", "payload_size"})


JUNK: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2**63,
    U64,
    1.5,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "x",
    "a" * 600,
    "\0",
]
JUNK += [b"", b"x", [], [1, 0], [[[]]], {}, {"encoding": "raw"}, {"a": {"b": []}}]


@every_message
def test_a_field_of_any_other_value_is_refused_or_read_as_it_is(kind, parts):
    """Whatever value stands in a field, it is refused, or it is exactly what is read: nothing is coerced."""
    header = msgpack.unpackb(parts[1][:-4])
    refused = 0
    for name in header.keys() - {"exposure_us", "region"}:  # the fields of the vector that this version ignores
        for junk in JUNK:
            message = damaged(parts, 1, changed(parts[1], **{name: junk}))
            word = refusal(kind, message)
            if word is not None:
                assert word in REFUSALS
                refused += 1
                continue
            decoded = DECODE[kind](message)
            value = getattr(decoded[0] if isinstance(decoded, tuple) else decoded, name, junk)
            expected = float(junk) if type(value) is float else junk  # a score may be written as an integer
            assert value == expected
            assert isinstance(value, type(expected))  # an enum is its word or number
            assert isinstance(value, bool) is isinstance(junk, bool)
    assert refused > 10 * len(header)


@every_message
def test_a_missing_field_is_refused_or_has_its_default(kind, parts):
    """Without a required field there is no message; schema and version are refused by their own words."""
    required = {
        "frame": {"camera", "session", "frame_id", "height", "width", "pixel_format", "acquired_ns"},
        "trigger": {"camera", "trigger_id"},
        "receipt": {"camera", "session", "frame_id", "accepted", "reason", "seq", "verdict", "error"},
        "result": {
            "result_id",
            "seq",
            "verdict",
            "error",
            "error_code",
            "frame_id",
            "product",
            "template",
            "simulated",
        },
    }[kind]
    for name in required:
        assert refusal(kind, damaged(parts, 1, changed(parts[1], **{name: ...}))) == "field"
    assert refusal(kind, damaged(parts, 1, changed(parts[1], schema=...))) == "schema"
    assert refusal(kind, damaged(parts, 1, changed(parts[1], version=...))) == "version"


# --- random bytes ---------------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), U64) | st.floats() | st.text(max_size=20) | st.binary(max_size=9)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
TOPICS = st.sampled_from([FRAME_TOPIC, TRIGGER_TOPIC, RECEIPT_TOPIC, RESULT_TOPIC_PREFIX + b"cell-4.top"]) | st.binary(
    max_size=30
)


@given(st.sampled_from(sorted(DECODE)), TOPICS, st.lists(st.binary(max_size=200), max_size=4))
def test_random_parts_are_refused(kind, topic, rest):
    """Random bytes are never a message."""
    assert refusal(kind, [topic, *rest]) in REFUSALS
    assert refusal(kind, rest) in REFUSALS


@given(st.sampled_from(MESSAGES), st.data())
def test_sealed_headers_of_random_values_are_read_or_refused(message, data):
    """A header with a right checksum and random values in random fields gives a value or a word, nothing else."""
    kind, parts = message.values
    names = st.sampled_from(sorted(msgpack.unpackb(parts[1][:-4])))
    changes = data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=4))
    assert refusal(kind, damaged(parts, 1, changed(parts[1], **changes))) in {None, *REFUSALS}
