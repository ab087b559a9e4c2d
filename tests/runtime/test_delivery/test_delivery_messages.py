"""The messages: the committed vectors are the law; damaged bytes are refused with a known word, nothing else."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.delivery import messages
from runtime.delivery.messages import (
    FIELDS,
    Delivery,
    Refused,
    Start,
    decode_answer,
    decode_request,
    encode,
    encode_delivery,
    inspection_of,
)
from runtime.errors import WireError
from runtime.wire.header import MAX_TEXT_BYTES, REFUSALS
from runtime.wire.messages import decode_result, result_topic

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "delivery.json").read_text())
GOOD = [pytest.param(vector, id=vector["name"]) for vector in VECTORS["messages"]]
BAD = [pytest.param(vector, id=f"{vector['refusal']}-{vector['about']}") for vector in VECTORS["refused"]]
REQUESTS = {"subscribe", "ack", "unsubscribe"}
every_message = pytest.mark.parametrize("vector", GOOD)


def parts_of(vector):
    """Return the parts of a vector."""
    return [bytes.fromhex(part) for part in vector["parts"]]


def decode(kind, parts):
    """Decode a message as the side it goes to does."""
    return (decode_request if kind in REQUESTS | {"request"} else decode_answer)(parts)


def value_of(vector) -> Any:
    """Return the value a vector names."""
    kind = next(each for each in FIELDS if each.__name__.lower() == vector["kind"])
    values = dict(vector["fields"])
    if "start" in values:
        values["start"] = Start(values["start"])
    if kind is Delivery:
        payloads = parts_of(vector)[2:]
        values |= {"result": payloads[0], "map_payload": payloads[1] if values.pop("map") else None}
    return kind(**values)


def refusal(kind, parts):
    """Return the word a message is refused with, None if it is read; anything else fails the test."""
    try:
        message = decode(kind, parts)
        if isinstance(message, Delivery):
            inspection_of(message)
    except WireError as error:
        return error.reason
    return None


@every_message
def test_decoders_read_the_values_of_the_vectors(vector):
    """A committed message decodes to the value written beside it."""
    assert decode(vector["kind"], parts_of(vector)) == value_of(vector)


@every_message
def test_encoders_write_the_bytes_of_the_vectors(vector):
    """The value beside a committed message encodes to its bytes."""
    value = value_of(vector)
    assert (encode_delivery(value) if isinstance(value, Delivery) else encode(value)) == parts_of(vector)


@pytest.mark.parametrize("vector", BAD)
def test_bad_vectors_are_refused_with_their_word(vector):
    """A committed bad message is refused with the word beside it."""
    assert refusal(vector["kind"], parts_of(vector)) == vector["refusal"]


def test_every_message_and_every_word_has_a_vector():
    """No kind of message, no field and no word that bytes alone can trigger is without a vector."""
    assert {vector["kind"] for vector in VECTORS["messages"]} == {each.__name__.lower() for each in FIELDS}
    for kind, wire in FIELDS.items():
        vector = next(each for each in VECTORS["messages"] if each["kind"] == kind.__name__.lower())
        assert list(vector["fields"]) == [field.name for field in wire]
    words = {"parts", "topic", "header_size", "header_crc", "header_encoding", "schema", "version", "field"}
    assert {vector["refusal"] for vector in VECTORS["refused"]} == words
    assert words < REFUSALS.keys()


def test_the_fields_of_a_record_are_those_that_travel():
    """Each record has exactly the fields its header carries, in order; a delivery its payloads besides."""
    for kind, wire in FIELDS.items():
        names = [field.name for field in fields(kind)]
        if kind is Delivery:
            names = [*names[:2], "map"]
        assert names == [field.name for field in wire]


@every_message
def test_every_flipped_bit_is_refused(vector):
    """One wrong bit anywhere in topic, header or a delivered result's header is refused."""
    parts = parts_of(vector)
    for index in range(min(3, len(parts))):
        for position in range(len(parts[index])):
            part = bytearray(parts[index])
            part[position] ^= 1 << position % 8
            assert refusal(vector["kind"], [*parts[:index], bytes(part), *parts[index + 1 :]]) in REFUSALS


@every_message
def test_every_prefix_and_every_tail_is_refused(vector):
    """A part cut anywhere, and a byte behind one, are refused."""
    parts = parts_of(vector)
    for index in range(len(parts)):
        for damaged in (*(parts[index][:end] for end in range(len(parts[index]))), parts[index] + b"\0"):
            assert refusal(vector["kind"], [*parts[:index], damaged, *parts[index + 1 :]]) in REFUSALS


@given(parts=st.lists(st.binary(max_size=60), max_size=6), kind=st.sampled_from(["request", "answer"]))
def test_junk_is_refused(parts, kind):
    """Any bytes at all are refused, never an exception of another kind."""
    assert refusal(kind, parts) in REFUSALS


@pytest.mark.parametrize("name", ["delivery", "delivery_map"])
def test_the_record_of_a_delivery_says_what_travels_with_it(name):
    """The inspection is the stored one but for historical, the map where none came along, and the preview."""
    delivery = value_of(next(each for each in VECTORS["messages"] if each["name"] == name))
    stored, _, _ = decode_result([result_topic("cell-4", "top"), delivery.result, *stored_map()])
    found = inspection_of(delivery)
    assert found == replace(stored, historical=delivery.historical, map=stored.map if delivery.map else None)
    assert found.historical is (name == "delivery_map")


def stored_map():
    """Return the map of the result in the vectors."""
    return [parts_of(each)[3] for each in VECTORS["messages"] if each["name"] == "delivery_map"]


def test_a_delivery_names_its_own_result():
    """A delivery whose seq is not its result's is refused: it would acknowledge another one."""
    delivery = value_of(next(each for each in VECTORS["messages"] if each["name"] == "delivery"))
    with pytest.raises(WireError, match="expected result 2"):
        inspection_of(replace(delivery, seq=2))


def test_a_long_detail_is_cut():
    """An error's text never keeps its refusal from being sent."""
    refused = decode_answer(encode(Refused(reason="unavailable", detail="ä" * 5000)))
    assert len(refused.detail.encode()) == MAX_TEXT_BYTES


def test_topics_are_told_apart_by_name():
    """Each kind has a topic of its own, under the major version's prefix, and none is another's."""
    topics = [messages.topic_of(kind) for kind in FIELDS]
    assert len(set(topics)) == len(topics)
    assert all(topic.startswith(messages.TOPIC_PREFIX) for topic in topics)
