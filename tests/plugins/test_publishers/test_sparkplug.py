"""Sparkplug B: births, data and deaths, their numbers, and the same fields as everywhere; read by another's decoder."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import publisher_peers as peers  # loaded by conftest.py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgead import RESULT_FIELDS, ConfigError, result_values
from plugins.publishers.mqtt.sparkplug_payload import DataType, Metric, decode, encode

PEER = Path(__file__).with_name("spb_peer.py")


def test_the_bytes_are_those_of_the_specification():
    """A payload is the bytes that the specification's field numbers give, written out here by hand."""
    made = encode([Metric("a", DataType.UINT64, 5, 2, historical=True), Metric("b", DataType.STRING, None, 2)], 1, 7)
    first = bytes.fromhex("0a01611802200828015805")
    second = bytes.fromhex("0a01621802200c3801")
    metrics = b"".join(b"\x12" + bytes([len(each)]) + each for each in (first, second))
    assert made == b"\x08\x01" + metrics + b"\x18\x07"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_refused(data):
    """Bytes from the network give metrics or a ConfigError, nothing else."""
    with contextlib.suppress(ConfigError):
        assert all(isinstance(name, str) for name in decode(data))


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """Return pysparkplug, in an environment of its own (it needs another paho): ``decoder(mode, input)``."""
    folder = tmp_path_factory.mktemp("pysparkplug")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "pysparkplug==0.6.1"]
    if subprocess.run(command, check=False, timeout=120, capture_output=True).returncode:
        pytest.skip("pysparkplug cannot be installed here: no package index")

    def run(mode, text=""):
        done = subprocess.run(
            [python, "-I", PEER, mode], input=text, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    return run


def messages(sub, decoder):
    """Return what came, decoded by the other implementation."""
    ours = [row for row in sub.lines() if row[0].count("/") > 2 and "/NCMD/" not in row[0]]
    rows = "".join(f"{topic} {payload.decode()}\n" for topic, _, payload in ours)
    return [json.loads(line) for line in decoder("decode", rows).splitlines()]


@pytest.fixture
def spb(cell, outlets, broker, listen):
    """Return a maker of (cell, outlets, subscriber) with a Sparkplug edge node."""

    def make():
        sub = listen(broker.port, "spBv1.0/#", options=("-F", "%t %r %x"))
        made = cell({"sparkplug": {"host": "127.0.0.1", "port": broker.port}}, ("top", "side"))
        running = outlets(made)
        peers.wait_for(lambda: len(sub.lines()) >= 3, "births")
        return made, running, sub

    return make


def kinds(sub):
    """Return the kinds of the messages so far."""
    return [topic.split("/")[2] for topic, _, _ in sub.lines() if topic.count("/") > 2]


@pytest.mark.slow
def test_the_decoder_is_somebody_elses(decoder):
    """The decoder lies in an environment of its own, from which nothing of ours can be imported."""
    who = json.loads(decoder("who"))
    assert who["ours"] == []
    assert who["decoder"].startswith(who["prefix"])
    assert who["prefix"] != sys.prefix


@pytest.mark.slow
def test_another_implementation_reads_every_result(spb, decoder, broker, tmp_path):
    """Pysparkplug reads births and 100 results: all fields as on record, seq without a gap; its NCMD is obeyed."""
    line, _, sub = spb()
    line.produce(100)
    peers.wait_for(lambda: kinds(sub).count("DDATA") >= 100, "100 results")
    (tmp_path / "ncmd").write_bytes(bytes.fromhex(decoder("rebirth")))
    topic = "spBv1.0/edgead/NCMD/cell4"
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", topic, "-f", str(tmp_path / "ncmd")]
    subprocess.run(command, check=True, timeout=20)
    peers.wait_for(lambda: kinds(sub).count("NBIRTH") == 2, "births anew")
    own = messages(sub, decoder)
    assert [each["kind"] for each in own[:3]] == ["NBIRTH", "DBIRTH", "DBIRTH"]
    again = [each["kind"] for each in own].index("NBIRTH", 1)
    for life in (own[:again], own[again:]):
        assert [each["seq"] for each in life] == [number % 256 for number in range(len(life))]
    data = [each["metrics"] for each in own if each["kind"] == "DDATA"]
    names = {each.metric: each.name for each in RESULT_FIELDS}
    read = [{names[name]: metric["value"] for name, metric in metrics.items()} for metrics in data]
    assert read == [result_values(each, historical=False) for each in line.results()]
    types = {"uint": "UINT64", "float": "DOUBLE", "text": "STRING", "bool": "BOOLEAN"}
    born = own[1]["metrics"]
    assert {each.metric: types[each.kind] for each in RESULT_FIELDS} == {name: m["type"] for name, m in born.items()}


@pytest.mark.slow
def test_late_results_are_historical_for_another_implementation(spb, decoder, broker, listen):
    """Results made while the broker was away come in order with is_historical; bdSeq of death and birth agree."""
    line, running, sub = spb()
    running.kill("sparkplug")
    peers.wait_for(lambda: "NDEATH" in kinds(sub), "the will")
    running.wait_ready()
    peers.wait_for(lambda: kinds(sub).count("NBIRTH") == 2, "the next life")
    before = messages(sub, decoder)
    broker.stop()
    peers.wait_for(lambda: not running.status()["sparkplug"]["figures"]["connected"], "the end of the connection")
    line.produce(20)
    running.stop()
    broker.start()
    late = listen(broker.port, "spBv1.0/#", options=("-F", "%t %r %x"))
    command = ["mosquitto_pub", "-p", str(broker.port), "-r", "-t", "spBv1.0/here", "-m", "x"]
    subprocess.run(command, check=True, timeout=20)
    peers.wait_for(late.lines, "the subscription")
    running.start()
    peers.wait_for(lambda: kinds(late).count("DDATA") >= 20, "the late results")
    after = messages(late, decoder)
    data = [each["metrics"] for each in after if each["kind"] == "DDATA"]
    assert [each["Result/Seq"]["value"] for each in data] == list(range(1, 21))
    assert all(metric["historical"] for each in data for metric in each.values())
    lives = [(each["kind"], each["metrics"]["bdSeq"]["value"]) for each in before if "bdSeq" in each["metrics"]]
    assert lives == [("NBIRTH", 0), ("NDEATH", 0), ("NBIRTH", 1)]
