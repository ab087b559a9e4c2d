"""The station file: what it accepts, what it refuses and how it says so, and that its examples and schema are true."""

import json
import re
from pathlib import Path

import pytest

import configs
from runtime.errors import ConfigError
from runtime.station.config import Evidence, Ledger, Station, load_station, station_schema

CONFIGS = Path(configs.__file__).parent
SMALLEST = "schema: edgead.station/1\nstation: line1\ncameras:\n  top: {product: part}\n"


def load(tmp_path, text):
    """Return the station a file with this text describes."""
    path = tmp_path / "station.yaml"
    path.write_text(text, encoding="utf-8")
    return load_station(path)


def refusal(tmp_path, text):
    """Return the message about this text, without the folder."""
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    return str(error.value).replace(f"{tmp_path}/", "")


def test_the_smallest_station_has_every_default(tmp_path):
    """Three keys make a station; everything else has a default, the store beside the file."""
    station = load(tmp_path, SMALLEST)
    assert station.store == tmp_path / "store"
    assert station.cameras["top"].detector == "hetmm"
    assert (station.worker.device, station.publish.map) == ("cpu", "raw")


def test_the_shipped_station_file_is_the_defaults(tmp_path):
    """configs/station.yaml loads as it is, spells out every key, and says nothing but the defaults."""
    shipped = load_station(CONFIGS / "station.yaml")
    smallest = load(tmp_path, SMALLEST)
    ledger = shipped.ledger.model_copy(update={"path": smallest.ledger.path})
    assert shipped.model_copy(update={"store": smallest.store, "ledger": ledger}) == smallest
    text = (CONFIGS / "station.yaml").read_text(encoding="utf-8")
    models = [Station, *(field.annotation for field in map(Station.model_fields.get, ("worker", "publish")))]
    models += [Ledger, Evidence]
    names = [field.alias or name for model in models for name, field in model.model_fields.items()]
    assert [
        name for name in [*names, "product", "detector", "queue"] if not re.search(rf"^ *{name}:", text, re.MULTILINE)
    ] == []


def test_the_schema_file_is_current():
    """configs/station.schema.json is what `edgead validate --schema` prints, with a description for every key."""
    schema = station_schema()
    assert json.loads((CONFIGS / "station.schema.json").read_text(encoding="utf-8")) == schema
    for model in (schema, *schema["$defs"].values()):
        assert [name for name, field in model["properties"].items() if not field.get("description")] == []
        assert model["additionalProperties"] is False


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("camera: {}", "station.yaml:5: camera: unknown key; remove it or check its spelling"),
        ("worker: {threads: '4'}", "station.yaml:5: worker.threads: Input should be a valid integer, found '4'"),
        ("worker: {threads: true}", "station.yaml:5: worker.threads: Input should be a valid integer, found 'True'"),
        ("publish: {preview: NO}", "station.yaml:5: publish.preview: Input should be a valid boolean, found 'NO'"),
        ("publish: {map: png}", "station.yaml:5: publish.map: Input should be 'raw', 'png16' or 'none', found 'png'"),
        (
            "max_frame_bytes: 0",
            "station.yaml:5: max_frame_bytes: Input should be greater than or equal to 1, found '0'",
        ),
        (
            "worker: {hang_s: .nan}",
            "station.yaml:5: worker.hang_s: Input should be less than or equal to 3600",
        ),
        ("worker: {hang_s: .inf}", "station.yaml:5: worker.hang_s: Input should be less than or equal to 3600"),
        ("worker: {device: gpu}", "station.yaml:5: worker.device: String should match pattern"),
        ("ledger: {days: 3}", "station.yaml:5: ledger.days: unknown key"),
        ("ledger: {evidence: {ok_every: -1}}", "station.yaml:5: ledger.evidence.ok_every: Input should be greater"),
        ("store: 3", "station.yaml:5: store: Input is not a valid path"),
    ],
)
def test_a_wrong_value_names_line_key_and_what_was_found(tmp_path, line, fault):
    """Each wrong value is one message: file, line, key, what was expected, what was found."""
    assert refusal(tmp_path, SMALLEST + line + "\n").startswith(fault)


def test_every_fault_of_a_file_is_told_at_once(tmp_path):
    """Four faults are four lines in one refusal, the missing key among them."""
    text = "schema: edgead.station/1\ncameras:\n  top:\n    product: Part A\n    queue: 0\n    shutter: 1\n"
    lines = refusal(tmp_path, text).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["station.yaml:1", "station"],
        ["station.yaml:4", "cameras.top.product"],
        ["station.yaml:5", "cameras.top.queue"],
        ["station.yaml:6", "cameras.top.shutter"],
    ]
    assert lines[0].endswith("is missing")


def test_no_is_a_name(tmp_path):
    """A station in Norway may be called NO: YAML 1.2 keeps it text."""
    assert load(tmp_path, SMALLEST.replace("line1", "NO")).station == "NO"


def test_the_ledger_is_beside_the_file_unless_there_is_none(tmp_path):
    """A ledger's folder is relative to the file, its files have fixed names, and null means no ledger."""
    ledger = load(tmp_path, SMALLEST).ledger
    assert (ledger.file, ledger.evidence_folder) == (tmp_path / "ledger/ledger.sqlite", tmp_path / "ledger/evidence")
    assert load(tmp_path, SMALLEST + "ledger: {path: ../records}\n").ledger.path == tmp_path.parent / "records"
    assert load(tmp_path, SMALLEST + "ledger: null\n").ledger is None


@pytest.mark.parametrize("schema", ["edgead.station/2", "1", "null"])
def test_another_format_is_refused(tmp_path, schema):
    """A file of another schema is not guessed at."""
    text = SMALLEST.replace("edgead.station/1", schema)
    assert refusal(tmp_path, text).startswith("station.yaml:1: schema: Input should be 'edgead.station/1'")


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:5700", "tcp://*:5700", "tcp://[::1]:5700", "tcp://host-1.plant:1", "ipc:///run/a b"]
)
def test_addresses_zeromq_can_bind_are_accepted(tmp_path, address):
    """Host and port, every card, IPv6 and a socket file are addresses."""
    assert load(tmp_path, f"{SMALLEST}frames: '{address}'\n").frames == address


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:5700", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://host:1 ", "udp://h:1", "ipc://", ""],
)
def test_other_addresses_are_refused_with_an_example(tmp_path, address):
    """What ZeroMQ could not bind is refused before anything starts, with an example of what it could."""
    text = refusal(tmp_path, f"{SMALLEST}frames: '{address}'\n")
    assert text.startswith("station.yaml:5: frames: ")
    assert "tcp://127.0.0.1:5601" in text


def test_two_sockets_cannot_share_an_address(tmp_path):
    """Frames and results on one address are refused, at the line that says so: the second bind would fail."""
    found = "expected an address of its own, found that of"
    clash = refusal(tmp_path, SMALLEST + "results: tcp://127.0.0.1:5601\n")
    assert clash == f"station.yaml:5: results: {found} `frames`, tcp://127.0.0.1:5601"
    with_a_default = refusal(tmp_path, SMALLEST + "frames: tcp://127.0.0.1:5602\n")
    assert with_a_default == f"station.yaml:5: frames: {found} `results`, tcp://127.0.0.1:5602"


def test_deliveries_need_a_ledger(tmp_path):
    """Durable delivery without a record to deliver from is refused, at its line, with what to do."""
    text = SMALLEST + "deliveries: tcp://127.0.0.1:5604\n"
    assert load(tmp_path, text).deliveries == "tcp://127.0.0.1:5604"
    assert refusal(tmp_path, text + "ledger: null\n") == (
        "station.yaml:5: deliveries: results that can be delivered later need a ledger: give `ledger` a folder, "
        "or set `deliveries: null`"
    )
    assert "found that of `status`" in refusal(tmp_path, text.replace("5604", "5603"))


@pytest.mark.parametrize("camera", ["top.left", "a b", "x" * 65, "größe"])
def test_a_camera_name_that_would_break_a_topic_is_refused(tmp_path, camera):
    """Camera names are part of topics: a dot or a space in one is refused where it stands."""
    text = refusal(tmp_path, SMALLEST.replace("top:", f"'{camera}':"))
    assert text.startswith("station.yaml:4: ")
    assert "1 to 64 of A-Z a-z 0-9 _ -" in text


def test_a_station_without_cameras_is_refused(tmp_path):
    """A station that could never inspect anything is refused."""
    assert "cameras" in refusal(tmp_path, "schema: edgead.station/1\nstation: a\ncameras: {}\n")


@pytest.mark.parametrize(
    ("store", "where"),
    [("templates", "line/templates"), ("../shared", "shared"), ("/var/lib/edgead", "/var/lib/edgead")],
)
def test_the_store_is_relative_to_the_file(tmp_path, monkeypatch, store, where):
    """A relative store lies beside the station file, whatever folder the command runs in; an absolute one stays."""
    monkeypatch.chdir("/")
    (tmp_path / "line").mkdir()
    assert load(tmp_path / "line", f"{SMALLEST}store: {store}\n").store == tmp_path / where


def test_a_loaded_station_cannot_change():
    """The station in memory is the file: nothing can set a field behind its back."""
    station = load_station(CONFIGS / "station.yaml")
    with pytest.raises(ValueError, match="frozen"):
        station.station = "other"


@pytest.mark.parametrize(
    ("rate", "deadline", "expected"),
    [("null", "", 1000), ("50", "", 1200), ("7", "", 8571), ("50", "deadline_ms: 90, ", 90), ("0.01", "", 600_000)],
)
def test_the_deadline_follows_the_rate_of_the_line(tmp_path, rate, deadline, expected):
    """One part's time where the camera names no deadline; its own where it does; a second where neither is known."""
    text = SMALLEST.partition("cameras:")[0] + f"parts_per_min: {rate}\ncameras: {{top: {{{deadline}product: part}}}}\n"
    assert load(tmp_path, text).cameras["top"].deadline_ms == expected


@pytest.mark.parametrize(("early_ms", "fits"), [(99, True), (100, False)])
def test_an_early_frame_must_not_look_like_a_late_one(tmp_path, early_ms, fits):
    """Matched by order, a frame may overtake its trigger by less than the time between two parts."""
    camera = f"{{product: part, triggers: ahead, match: order, early_ms: {early_ms}}}"
    text = SMALLEST.partition("cameras:")[0] + f"parts_per_min: 600\ncameras: {{top: {camera}}}\n"
    if fits:
        assert load(tmp_path, text).cameras["top"].early_ms == early_ms
    else:
        assert "cameras.top.early_ms: expected less than the 100 ms between two parts" in refusal(tmp_path, text)
