"""JSON over MQTT as a real broker carries it: every result, in order, late ones marked; state and commands."""

from __future__ import annotations

import json
import random
import shutil
import subprocess

import publisher_peers as peers  # loaded by conftest.py
import pytest

from edgead import result_values
from runtime.result_fields import result_schema

pytestmark = pytest.mark.system

ROOT = "edgead/v1/site/line/cell4"


@pytest.fixture
def mqtt(cell, outlets, broker):
    """Return a maker of (cell, outlets) with MQTT towards the test's broker."""

    def make(**options):
        line = cell({"mqtt": {"host": "127.0.0.1", "port": broker.port, **options}})
        return line, outlets(line)

    return make


def connected(running, name="mqtt"):
    """Wait until a publisher is connected to its broker."""
    peers.wait_for(lambda: running.status()[name]["figures"].get("connected"), "a connection to the broker")


def fresh(records):
    """Return the records without repetitions, as a subscriber must tell them: by result_id."""
    return list({record["result_id"]: record for record in reversed(records)}.values())[::-1]


def test_every_result_arrives_field_by_field(mqtt, broker, listen):
    """mosquitto_sub has every result in order, each field as it is on record, and of the type the schema says."""
    line, running = mqtt()
    connected(running)
    sub = listen(broker.port, f"{ROOT}/#")
    peers.wait_for(lambda: sub.records("/state"), "the retained state")
    line.produce(50)
    peers.wait_for(lambda: len(sub.records("/result")) >= 50, "50 results")
    wanted = [{"schema": "edgead.result/1", **result_values(each, historical=False)} for each in line.results()]
    assert sub.records("/result") == wanted
    types = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}
    properties = result_schema()["properties"]
    for record in wanted:
        assert record.keys() == properties.keys()
        for key, value in record.items():
            kinds = properties[key].get("type", "string")
            assert type(value) in [types[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)], key


def test_a_broker_that_is_away_loses_nothing(mqtt, broker, listen):
    """Results made while the broker is down arrive when it is back, in order, marked historical."""
    line, running = mqtt()
    connected(running)
    line.produce(5)
    peers.wait_for(lambda: running.status()["mqtt"]["figures"]["delivered"] == 5, "the first results")
    broker.stop()
    peers.wait_for(lambda: not running.status()["mqtt"]["figures"]["connected"], "the end of the connection")
    line.produce(100)
    broker.start()
    sub = listen(broker.port, f"{ROOT}/result")
    peers.wait_for(lambda: running.status()["mqtt"]["figures"]["delivered"] >= 100, "the rest delivered")
    line.produce(1)
    peers.wait_for(lambda: any(each["seq"] == 106 for each in sub.records("/result")), "the newest")
    records = sub.records("/result")
    assert [each["seq"] for each in records] == sorted(each["seq"] for each in records)
    assert {each["historical"] for each in records if each["seq"] < 106} <= {True}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_parts_without_broker_and_with_kills(mqtt, broker, listen):
    """Broker down for 1,000 parts, station and publisher SIGKILLed meanwhile: all arrive, in order, historical."""
    line, running = mqtt()
    connected(running)
    broker.stop()
    for _ in range(4):
        line.produce(250)
        line.kill()
        running.kill("mqtt")
        line.start()
    running.stop()
    broker.start()
    sub = listen(broker.port, f"{ROOT}/#")
    say(broker, f"{ROOT}/here", "{}", "-r")
    peers.wait_for(sub.lines, "the subscription")  # else the broker would have nobody to give them to
    running.start()
    line_results = line.results()
    assert len(line_results) >= 1000
    peers.wait_for(lambda: len(fresh(sub.records("/result"))) >= len(line_results), "all results", 120)
    records = fresh(sub.records("/result"))
    assert [each["result_id"] for each in records] == [each.result_id for each in line_results]
    assert all(each["historical"] for each in records)


def test_the_last_will_says_offline(mqtt, broker, listen):
    """A publisher killed without a word is offline at the broker, for late subscribers too; back, it is online."""
    _, running = mqtt(keepalive_s=1)
    connected(running)
    first = listen(broker.port, f"{ROOT}/state")
    peers.wait_for(lambda: [each["state"] for each in first.records("/state")][-1:] == ["online"], "online")
    running.kill("mqtt")
    peers.wait_for(lambda: "offline" in [each["state"] for each in first.records("/state")], "offline")
    running.wait_ready()
    peers.wait_for(lambda: first.records("/state")[-1]["state"] == "online", "online again")
    late = listen(broker.port, f"{ROOT}/state")
    peers.wait_for(late.lines, "the retained state")
    assert late.lines()[0][1], "retained"
    running.stop()
    peers.wait_for(lambda: first.records("/state")[-1]["state"] == "offline", "offline at the end")


def test_the_state_is_the_hosts(mqtt, broker, listen):
    """A host whose loop is gone is host_lost, though the publisher is well."""
    line, running = mqtt()
    connected(running)
    sub = listen(broker.port, f"{ROOT}/state")
    peers.wait_for(lambda: sub.records("/state")[-1:] and sub.records("/state")[-1]["state"] == "online", "online")
    line.kill()
    peers.wait_for(lambda: sub.records("/state")[-1]["state"] == "host_lost", "host_lost")


def say(broker, topic, payload, *options):
    """Publish by mosquitto_pub."""
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-t", topic, "-m", payload]
    subprocess.run([*command, *options], check=True, timeout=20)


def test_a_trigger_by_mqtt_is_answered(mqtt, broker, listen):
    """A trigger command gets its answer with the id given, then its result's seq; a wrong one a sentence, no result."""
    line, running = mqtt()
    connected(running)
    sub = listen(broker.port, f"{ROOT}/#")
    peers.wait_for(lambda: sub.records("/state"), "the subscription")
    trigger = {"camera": "top", "trigger_id": 7, "part_id": "A-1", "raised_ns": 5, "id": 1}
    say(broker, f"{ROOT}/cmd/trigger", json.dumps(trigger))
    peers.wait_for(lambda: sub.records("/result") and len(sub.records("/answer")) == 2, "its result and its seq")
    say(broker, f"{ROOT}/cmd/trigger", json.dumps(trigger))  # as MQTT may: twice
    peers.wait_for(lambda: len(sub.records("/answer")) == 4, "the same answers")
    say(broker, f"{ROOT}/cmd/trigger", "[1]")
    say(broker, f"{ROOT}/cmd/trigger", json.dumps({**trigger, "trigger_id": "7", "id": "x"}))
    say(broker, f"{ROOT}/cmd/trigger", json.dumps({**trigger, "colour": 1, "id": 2}))
    peers.wait_for(lambda: len(sub.records("/answer")) == 7, "an answer to each")
    answers = sub.records("/answer")
    taken, word = (1, True, None), (1, True, 1)
    assert [(each["id"], each["ok"], each.get("seq")) for each in answers] == [
        taken, word, taken, word, (None, False, None), ("x", False, None), (2, False, None),
    ]  # fmt: skip
    assert [(each["trigger_id"], each["part_id"]) for each in sub.records("/result")] == [(7, "A-1")]
    assert len(line.results()) == 1


def test_many_triggers_repeated_and_out_of_order(mqtt, broker, listen):
    """120 triggers sent twice and shuffled, some for no camera: each command is answered, each part inspected once."""
    line, running = mqtt()
    connected(running)
    sub = listen(broker.port, f"{ROOT}/#")
    peers.wait_for(lambda: sub.records("/state"), "the subscription")
    rng = random.Random(7)
    wanted = [{"camera": "top", "trigger_id": number, "part_id": f"P{number}", "raised_ns": 1000 + number}
              for number in range(120)]  # fmt: skip
    said = [{**each, "id": f"{each['trigger_id']}-{turn}"} for each in wanted for turn in range(2)]
    said += [{"camera": "none", "trigger_id": 1000 + number, "id": f"lost-{number}"} for number in range(10)]
    rng.shuffle(said)
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-t", f"{ROOT}/cmd/trigger", "-l"]
    text = "".join(f"{json.dumps(each)}\n" for each in said)
    subprocess.run(command, input=text, text=True, check=True, timeout=60)
    first = lambda: [each for each in sub.records("/answer") if "seq" not in each]  # noqa: E731
    peers.wait_for(lambda: len(first()) == len(said), "an answer to each", 60)
    peers.wait_for(lambda: len(sub.records("/result")) >= 120, "120 results", 60)
    assert sorted(each["id"] for each in first()) == sorted(each["id"] for each in said)
    made = line.results()
    assert sorted((each.trigger_id, each.part_id) for each in made) == [(n, f"P{n}") for n in range(120)]
    refusals = lambda: [each for each in sub.records("/answer") if "seq" in each and not each["ok"]]  # noqa: E731
    peers.wait_for(lambda: len(refusals()) == 10, "10 refusals")
    refused = refusals()
    assert all(each["ok"] for each in first())
    assert {(each["error"], each["seq"]) for each in refused} == {("unknown_camera", None)}
    assert {each["id"] for each in refused} == {f"lost-{number}" for number in range(10)}
    seqs = {(each.camera, each.trigger_id): each.seq for each in made}
    words = [each for each in sub.records("/answer") if "seq" in each]
    assert all(each["seq"] == seqs[each["camera"], each["trigger_id"]] for each in words if each["ok"])


def test_an_id_that_waits_for_another_part_is_refused(mqtt, broker, listen):
    """While the station is away a trigger waits: the same again is it, another part under its id is refused."""
    line, running = mqtt()
    connected(running)
    sub = listen(broker.port, f"{ROOT}/#")
    peers.wait_for(lambda: sub.records("/state"), "the subscription")
    line.kill()
    for part in ("A", "A", "B"):
        say(broker, f"{ROOT}/cmd/trigger", json.dumps({"camera": "top", "trigger_id": 5, "part_id": part}))
    peers.wait_for(lambda: len(sub.records("/answer")) == 3, "an answer to each")
    assert [each["ok"] for each in sub.records("/answer")] == [True, True, False]
    assert "waits for part 'A'" in sub.records("/answer")[2]["error"]
    line.start()
    peers.wait_for(lambda: sub.records("/result"), "its result")
    assert [each.part_id for each in line.results()] == ["A"]


def test_a_retained_trigger_is_refused(mqtt, broker, listen):
    """A command left at the broker from before is answered with a refusal, not obeyed."""
    say(broker, f"{ROOT}/cmd/trigger", json.dumps({"camera": "top", "trigger_id": 1}), "-r")
    sub = listen(broker.port, f"{ROOT}/answer")
    line, running = mqtt()
    connected(running)
    peers.wait_for(lambda: sub.records("/answer"), "an answer")
    assert "retain" in sub.records("/answer")[0]["error"]
    assert line.results() == []


@pytest.fixture
def tls_broker(tmp_path, broker):
    """Return a mosquitto that speaks TLS only and wants a user; its certificate comes from ``ca.pem`` in the folder."""
    broker.stop()
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (Debian: apt-get install openssl)")
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    for name, names in (("server", "IP:127.0.0.1"), ("other", "IP:127.0.0.1")):
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        subprocess.run(
            [*openssl, "-addext", f"subjectAltName={names}", *files], check=True, capture_output=True, timeout=60
        )
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(tmp_path / "users"), "line", "hush"], check=True, timeout=20)
    (tmp_path / "server.key").chmod(0o644)  # mosquitto drops its rights before it reads it
    (tmp_path / "users").chmod(0o644)
    port = peers.free_port()
    made = peers.Broker(
        tmp_path, f"listener {port} 127.0.0.1", "allow_anonymous false", f"password_file {tmp_path / 'users'}",
        f"certfile {tmp_path / 'server.pem'}", f"keyfile {tmp_path / 'server.key'}", "user root",
    )  # fmt: skip
    made.port = port
    yield made.start()
    made.stop()


def test_tls_and_password(cell, outlets, tls_broker, monkeypatch):
    """Over TLS with a password results arrive; with another authority's certificate the broker is not trusted."""
    monkeypatch.setenv("EDGEAD_TEST_MQTT", "hush")
    common = {"host": "127.0.0.1", "port": tls_broker.port, "username": "line", "password": {"env": "EDGEAD_TEST_MQTT"}}
    line = cell({
        "mqtt": {**common, "tls": {"ca": "server.pem"}},
        "wrong": {"publisher": "mqtt", **common, "tls": {"ca": "other.pem"}},
    })  # fmt: skip
    running = outlets(line)
    connected(running)
    line.produce(5)
    peers.wait_for(lambda: running.status()["mqtt"]["figures"]["delivered"] == 5, "5 results")
    wrong = running.status()["wrong"]["figures"]
    assert not wrong["connected"]
    assert "certificate" in wrong["last_error"].lower()
