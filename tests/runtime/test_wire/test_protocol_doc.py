"""docs/protocol.md says what the code does: its tables, hex dumps and programs are compared with the real ones."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path

import msgpack
import pytest

from runtime.frame import Clock, FrameHeader, PixelFormat
from runtime.host.ledger_records import LedgerRecords
from runtime.host.loop import Host
from runtime.inspection import ErrorWord, Inspection, MapInfo, Verdict
from runtime.station.config import Station, load_station
from runtime.testing.station import PRODUCT
from runtime.testing.swapping import make_station
from runtime.trigger import TriggerHeader
from runtime.wire import header
from runtime.wire.messages import Receipt

TESTS = Path(__file__).parents[2]
DOCUMENT = (TESTS.parent / "docs" / "protocol.md").read_text()
SECTIONS = dict(re.findall(r"^#{2,3} (.+)\n((?:(?!^##)[\s\S])*)", DOCUMENT, re.MULTILINE))


def rows(section: str, table: int = 0) -> list[list[str]]:
    """Return the cells of a section's table, without its head, code marks taken off."""
    tables = re.findall(r"(?:^\|.*\n)+", SECTIONS[section], re.MULTILINE)
    return [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in tables[table].splitlines()[2:]]


def first_column(section: str, table: int = 0) -> list[str]:
    """Return the names a table lists."""
    return [row[0] for row in rows(section, table)]


def vector(kind: str, name: str) -> list[bytes]:
    """Return the parts of a committed vector."""
    vectors = json.loads((TESTS / "vectors" / f"{kind}.json").read_text())
    return next([bytes.fromhex(part) for part in v["parts"]] for v in vectors if v["name"] == name)


def dump(data: bytes) -> str:
    """Return the hex dump the document must show: offset, sixteen bytes, their ASCII."""
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:04x}  {row.hex(' '):<47}  {text}")
    return "\n".join(lines) + "\n"


DUMPS = re.findall(r"```hexdump (\w+) (\w+) part (\d)\n([\s\S]*?)```", DOCUMENT)


@pytest.mark.parametrize(("kind", "name", "part", "shown"), DUMPS, ids=[" ".join(quoted[:3]) for quoted in DUMPS])
def test_every_quoted_dump_is_the_vector(kind, name, part, shown):
    """A hex dump in the document is the committed vector, byte for byte."""
    assert shown == dump(vector(kind, name)[int(part)])


def test_every_kind_of_message_is_quoted():
    """The document shows at least one header of each message, and no dump outside the compared form."""
    assert {quoted[0] for quoted in DUMPS if quoted[2] == "1"} == {"frame", "trigger", "receipt", "result"}
    assert DOCUMENT.count("```hexdump") == len(DUMPS)


@pytest.mark.parametrize("name", ["header.hpp", "camera.cpp", "trigger.cpp", "subscriber.cpp"])
def test_the_quoted_programs_are_the_tested_ones(name):
    """A C++ program in the document is the file that the system tests compile, and is short."""
    code = (TESTS / "peers" / name).read_text()
    assert f"```cpp\n{code}```\n" in DOCUMENT
    assert name == "header.hpp" or code.count("\n") < 40


@pytest.mark.parametrize(
    ("section", "quoted"),
    [
        ("Frame", ("frame", "mono8")),
        ("Trigger", ("trigger", "part")),
        ("Receipt", ("receipt", "accepted")),
        ("Result", ("result", "ok_raw_map")),
    ],
)
def test_field_tables_list_the_fields_in_wire_order(section, quoted):
    """Each table has exactly the fields a header carries, in the order they are written."""
    written = msgpack.unpackb(vector(*quoted)[1][:-4])
    assert first_column("The header part") == list(written)[:2]
    assert first_column(section) == list(written)[2:]


def test_the_tables_list_every_field_of_the_records():
    """No field of a record is left out of the document, but the error's code is the word's own."""
    records = (("Frame", FrameHeader), ("Trigger", TriggerHeader), ("Receipt", Receipt), ("Anomaly map", MapInfo))
    for section, record in records:
        assert first_column(section) == [field.name for field in fields(record)]
    assert sorted(first_column("Result")) == sorted([*(field.name for field in fields(Inspection)), "error_code"])


@pytest.mark.parametrize(("section", "record"), [("Frame", FrameHeader), ("Trigger", TriggerHeader)])
def test_optional_fields_are_those_with_a_default(section, record):
    """What the table calls required has no default in the record, and the other way round."""
    required = {row[0] for row in rows(section) if row[2] == "required"}
    assert required == {field.name for field in fields(record) if field.default is MISSING}


def test_the_words_of_closed_choices_are_all_named():
    """Every pixel format and every clock stands in its row of the frame table."""
    table = {row[0]: " ".join(row) for row in rows("Frame")}
    assert set(re.findall(r"\w+8\b", table["pixel_format"])) == set(PixelFormat)
    assert set(re.findall(r"(\w+)`:", table["clock"])) == set(Clock)


def test_the_verdict_and_error_tables_are_the_codes():
    """Numbers, spelling and order of verdicts and error words are those of the code."""
    assert [(int(row[0]), row[1]) for row in rows("Verdicts and errors")] == [(int(v), v.label) for v in Verdict]
    table = [(int(row[0]), row[1]) for row in rows("Verdicts and errors", 1)]
    assert table == [(word.code, word.value) for word in ErrorWord]


def test_the_refusal_table_is_complete():
    """Every word a receipt may give as reason is listed, in the order of the code, and none besides."""
    assert first_column("Refusals") == list(header.REFUSALS)


def test_the_limits_are_the_constants():
    """Every limit in the document is the number the code checks."""
    assert {row[0]: int(row[1].split()[0]) for row in rows("Limits")} == {
        "header part, least": header.MIN_HEADER_BYTES,
        "header part, most": header.MAX_HEADER_BYTES,
        "elements of one array or map in a header": header.MAX_ELEMENTS,
        "height, width": header.MAX_SIDE_PX,
        "pixels of a frame, any host": header.MAX_PAYLOAD_BYTES,
        "pixels of a frame, a station's default": Station.model_fields["max_frame_bytes"].default,
        "text field": header.MAX_TEXT_BYTES,
        "part_id": header.MAX_PART_ID_BYTES,
        "recipe": header.MAX_RECIPE_BYTES,
        "station or camera name": header.MAX_NAME_BYTES,
    }


def test_the_addresses_are_the_defaults():
    """The socket table gives the addresses a station file has when it names none."""
    for key in ("frames", "results", "status"):
        assert f"| {key} | `{Station.model_fields[key].default}` |" in DOCUMENT


def test_the_version_is_the_one_spoken():
    """Title and text name the version the encoders write."""
    major, minor = header.VERSION
    assert DOCUMENT.startswith(f"# The wire protocol, version {major}.{minor}\n")
    assert f"[major, minor], here [{major}, {minor}]" in DOCUMENT


def _keys(method: object) -> set[str]:
    """Return the text keys in the dictionary a method returns, comprehensions over a tuple of names included."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    answer = next(node.value for node in ast.walk(tree) if isinstance(node, ast.Return))
    assert isinstance(answer, ast.Dict)
    spread = [value for key, value in zip(answer.keys, answer.values, strict=True) if key is None]
    names = [key for key in answer.keys if key is not None]
    names += [name for one in spread for name in one.generators[0].iter.elts]
    return {name.value for name in names}


def test_the_status_tables_list_every_key(tmp_path):
    """What the host answers on the status socket is what the tables say, at every level."""
    path = make_station(tmp_path, recipes={"still": {"product": PRODUCT, "detector": "nothing"}})
    host = Host(load_station(path), ())
    try:
        status = host.status()
    finally:
        for lane in host.routes.living():
            lane.stop(0)
        host._wake.close()
    assert set(first_column("Status")) == status.keys()
    assert set(first_column("Status", 1)) == status["cameras"]["top"].keys()
    assert set(first_column("Status", 2)) == _keys(LedgerRecords.status)
