"""Event messages: what goes in comes out, and whatever else arrives is refused by a word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import WireError
from runtime.wire.event import EVENT_SCHEMA, EVENT_TOPIC_PREFIX, StationEvent, decode_event, encode_event
from runtime.wire.header import seal

EVENT = StationEvent("cell-7", "swap", 1_700_000_000_000_000_000, {"step": "rolled_back", "why": "the guard"})


def test_an_event_comes_back():
    """An event survives the way, and its topic names the station."""
    parts = encode_event(EVENT)
    assert parts[0] == b"ead.v1.event.cell-7"
    assert decode_event(parts) == EVENT


def test_a_detail_too_long_is_refused():
    """An event that no header holds is refused where it is made."""
    with pytest.raises(WireError):
        encode_event(StationEvent("s", "swap", 0, {"why": "x" * 70_000}))


@pytest.mark.parametrize("detail", ["[]", "{", "1", "[" * 5000])
def test_a_detail_that_is_no_object_is_refused(detail):
    """A detail must be a JSON object."""
    fields = {"station": "s", "kind": "swap", "at_ns": 0, "detail": detail}
    with pytest.raises(WireError, match="detail: expected a JSON object"):
        decode_event([EVENT_TOPIC_PREFIX + b"s", seal(EVENT_SCHEMA, fields)])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_anything_else_is_refused(parts):
    """Bytes that are no event raise WireError and nothing else."""
    with pytest.raises(WireError):
        decode_event(parts)


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(at, bit):
    """One bit of the header changed on the way is refused."""
    topic, header = encode_event(EVENT)
    damaged = bytearray(header)
    damaged[at % len(damaged)] ^= 1 << bit
    with pytest.raises(WireError):
        decode_event([topic, bytes(damaged)])
