"""docs/delivery.md says what the code does: its tables, hex dumps, limits and program are the real ones."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

import edgead
from runtime.delivery import client, intake, messages, server, window
from runtime.delivery.messages import ENDINGS, FIELDS, REASONS, Ack, Subscribe, Unsubscribe
from runtime.wire.header import MAX_HEADER_BYTES

TESTS = Path(__file__).parents[2]
DOCUMENT = (TESTS.parent / "docs" / "delivery.md").read_text()
SECTIONS = dict(re.findall(r"^#{2,3} (.+)\n((?:(?!^##)[\s\S])*)", DOCUMENT, re.MULTILINE))
VECTORS = {v["name"]: v for v in json.loads((TESTS / "vectors" / "delivery.json").read_text())["messages"]}
DUMPS = re.findall(r"```hexdump (\w+) part (\d)\n([\s\S]*?)```", DOCUMENT)
KINDS = {kind.__name__: kind for kind in FIELDS}


def rows(section: str, table: int = 0) -> list[list[str]]:
    """Return the cells of a section's table, without its head, code marks taken off."""
    tables = re.findall(r"(?:^\|.*\n)+", SECTIONS[section], re.MULTILINE)
    return [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in tables[table].splitlines()[2:]]


@pytest.mark.parametrize("name", KINDS)
def test_field_tables_list_the_fields_in_wire_order(name):
    """Every message has a section whose table has exactly the fields of its header, in order."""
    assert [row[0] for row in rows(name)] == [field.name for field in FIELDS[KINDS[name]]]


@pytest.mark.parametrize("kind", [Subscribe, Ack, Unsubscribe])
def test_optional_fields_are_those_with_a_default(kind):
    """What a table calls required the decoder requires, and the other way round."""
    required = {row[0] for row in rows(kind.__name__) if row[2] == "required"}
    from runtime.wire.header import _REQUIRED

    assert required == {field.name for field in FIELDS[kind] if field.default is _REQUIRED}


def test_every_topic_is_listed():
    """The two tables of messages name every topic, on its own side."""
    requests = {messages.topic_of(kind).decode() for kind in (Subscribe, Ack, Unsubscribe)}
    everything = {messages.topic_of(kind).decode() for kind in FIELDS}
    listed = {side: {row[1].split("`")[0] for row in rows(side)} for side in ("To the host", "To the subscriber")}
    assert listed == {"To the host": requests, "To the subscriber": everything - requests}


def test_the_words_are_the_codes():
    """Reasons of refusals and endings, and what they mean, are the code's."""
    assert dict(rows("Refused", 1)) == REASONS
    assert dict(rows("Closed", 1)) == ENDINGS


def test_the_limits_are_the_constants():
    """Every limit in the document is the number the code checks, in the table and in the text."""
    assert {row[0]: int(row[1].split()[0]) for row in rows("Limits")} == {
        "names a host keeps": server.MOST_SUBSCRIBERS,
        "credit": messages.MAX_CREDIT,
        "bytes on their way to one subscriber, beyond which no delivery is begun": window.WINDOW_BYTES,
        "heartbeats unanswered, beyond which none is sent": window.MOST_UNANSWERED,
        "header part of a message to the host": MAX_HEADER_BYTES,
    }
    assert f"no more after {window.MOST_UNANSWERED} unanswered ones" in DOCUMENT
    assert f"(at most {intake.CREDIT})" in DOCUMENT
    assert f"(the last {intake.REMEMBERED} results)" in DOCUMENT
    assert intake.CREDIT <= messages.MAX_CREDIT
    assert f"({intake.CREDIT}) results come without" in inspect.getdoc(client.Subscription).replace("\n", " ")


@pytest.mark.parametrize(("name", "part", "shown"), DUMPS, ids=[quoted[0] for quoted in DUMPS])
def test_every_quoted_dump_is_the_vector(name, part, shown):
    """A hex dump in the document is the committed vector, byte for byte."""
    data = bytes.fromhex(VECTORS[name]["parts"][int(part)])
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:04x}  {row.hex(' '):<47}  {text}")
    assert shown == "\n".join(lines) + "\n"


def test_the_quoted_program_is_the_tested_one():
    """The C++ program in the document is the file that is compiled and run."""
    assert f"```cpp\n{(TESTS / 'peers' / 'durable.cpp').read_text()}```\n" in DOCUMENT


def test_the_signature_is_the_front_doors():
    """`edgead.subscribe` has the parameters the document gives."""
    call = re.search(r"`edgead\.subscribe\((.*)\)` does", DOCUMENT)
    given = ", ".join(
        f"{name}={each.default}" if each.default is not each.empty else name
        for name, each in inspect.signature(edgead.subscribe).parameters.items()
    )
    assert call
    assert call[1].replace("*, ", "") == given
