"""A station by command line: run, camera, watch and status as processes of their own."""

import csv
import json
import signal
import sqlite3
import time
from contextlib import closing

import cv2
import numpy as np
import pytest

from runtime.client.subscriber import ask_status
from runtime.errors import StationError
from runtime.local import free_addresses

pytestmark = pytest.mark.system


@pytest.fixture
def station(tmp_path, calibrated, start):
    """Return (station file, process) of a running station with one camera, ready."""
    store, _ = calibrated
    frames, results, status = free_addresses(3)
    path = tmp_path / "station.yaml"
    path.write_text(
        f"schema: edgead.station/1\nstation: line1\nstore: {store}\nframes: {frames}\nresults: {results}\n"
        f"status: {status}\ncameras: {{top: {{product: part, deadline_ms: 60000}}}}\n"
        "worker: {threads: 1}\npublish: {preview: true}\n"
    )
    process = start("run", path)
    give_up = time.monotonic() + 60
    while not _ready(status):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < give_up
    yield path, process
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def _ready(status):
    try:
        return ask_status(status, 0.2)["ready"]
    except StationError:  # not up yet
        return False


def test_camera_station_watch(station, dataset, tmp_path, start, run):
    """Every picture a camera sends is inspected, shown once by watch with its overlay, and counted by status."""
    path, _ = station
    maps = tmp_path / "maps"
    watching = start("watch", "--station", path, "--count", 10, "--idle", 60, "--json", "--save-maps", maps)
    assert watching.stderr.readline().startswith("waiting")
    time.sleep(0.5)  # the subscription travels to the publisher
    marks = ("--simulated", "--checksum", "--part-prefix", "P")
    sent = run("camera", dataset / "test", "--station", path, *marks, "--json")
    out, err = watching.communicate(timeout=60)
    assert (sent.code, watching.returncode) == (0, 0), err
    *records, totals = map(json.loads, out.splitlines())
    assert sent.last["sent"] == sent.last["answered"] == len(records) == totals["inspections"] == 10
    assert [each["source"] for each in records] == sorted(each["source"] for each in records)
    assert [each["part_id"] for each in records] == [f"P{number:06d}" for number in range(10)]
    assert all(each["simulated"] and each["verdict"] in {"OK", "NotOK"} for each in records)
    assert sent.last["verdicts"] == {word: n for word, n in (("OK", totals["ok"]), ("NotOK", totals["not_ok"])) if n}
    assert totals["missing"] == 0
    _check_pictures(totals["pictures"], dataset)
    status = run("status", "--station", path, "--json")
    assert (status.code, status.last["frames"], status.last["cameras"]["top"]["inspections"]) == (0, 10, 10)
    table = run("status", "--station", path)
    assert max(map(len, table.out.splitlines())) <= 80
    assert "camera top" in table.out


def test_the_ledger_of_a_station(station, dataset, tmp_path, run):
    """A running station's record is proven, shown, exported and computed again, bit for bit; a changed row is named."""
    path, process = station
    assert run("camera", dataset / "test", "--station", path, "--part-prefix", "P", "--json").code == 0
    done = run("ledger", "check", path, "--json")
    assert (done.code, done.last["ok"], done.last["problems"], done.last["seq"]) == (0, True, [], 10)
    assert done.last["totals"]["triggers"] == done.last["totals"]["inspections"] == 10
    head = done.last["head"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert run("ledger", "check", path, "--witness", head, "--json").code == 0
    forged = run("ledger", "check", path, "--witness", f"{head.partition(':')[0]}:{'0' * 64}", "--json")
    assert (forged.code, forged.last["problems"][0]["kind"]) == (1, "witness")

    shown = run("ledger", "show", path, "--last", 3, "--json").last
    assert [(each["seq"], each["part_id"]) for each in shown] == [(8, "P000007"), (9, "P000008"), (10, "P000009")]
    bad = run("ledger", "show", path, "--verdict", "notok", "--json").last
    assert {each["verdict"] for each in bad} == {"NotOK"}
    kinds = {each["kind"] for each in run("ledger", "show", path, "--events", "--json").last}
    assert kinds >= {"created", "opened", "in_use", "closed"}
    printed = run("ledger", "show", path).out
    assert "NotOK" in printed
    assert max(map(len, printed.splitlines())) <= 80

    for name in ("out.csv", "out.jsonl"):
        assert run("ledger", "export", tmp_path / name, path, "--json").last["count"] == 10
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "out.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [each["result_id"] for each in lines] == [each["result_id"] for each in table]
    assert [each["seq"] for each in lines] == list(range(1, 11))
    assert run("ledger", "export", tmp_path / "out.xml", path).code == 2

    again = run("replay", path, "--result", bad[0]["result_id"], "--json")
    assert (again.code, again.last["same"], again.last["score"]) == (0, True, bad[0]["score"])
    whole = run("ledger", "show", path, "--result", bad[0]["seq"], "--json").last
    assert (whole["score"], whole["result_id"], whole["evidence_bytes"] > 0) == (
        bad[0]["score"],
        bad[0]["result_id"],
        True,
    )
    missing = run("replay", path, "--result", "nosuch-99")
    assert (missing.code, "Traceback" in missing.err) == (8, False)

    with closing(sqlite3.connect(tmp_path / "ledger" / "ledger.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE inspections SET verdict = 1 WHERE seq = ?", (bad[0]["seq"],))
    changed = run("ledger", "check", "--ledger", tmp_path / "ledger", "--json")
    assert changed.code == 1
    assert f"inspections record {bad[0]['record']}" in changed.err


def _check_pictures(pictures, dataset):
    """Every overlay is a whole PNG of the frame's size, and unlike the frame it was drawn on."""
    frame = cv2.imread(str(dataset / "test" / "dent" / "000.png"))
    (dent,) = [picture for picture in pictures if "dent-000" in picture]
    overlay = cv2.imread(dent)
    assert len(pictures) == 10
    assert overlay.shape == frame.shape
    difference = np.abs(overlay.astype(int) - frame)
    # The part can still be seen under the map: most pixels keep most of their value.
    assert 0 < np.median(difference) < 80


def test_camera_of_another_name_is_refused(station, dataset, run):
    """A camera the station does not know is told so for every frame, and ends with 1."""
    path, _ = station
    done = run("camera", dataset / "test" / "good", "--station", path, "--name", "side", "--limit", 2, "--json")
    assert (done.code, done.last["refused"], done.last["sent"]) == (1, {"unknown_camera": 2}, 2)
    assert "2 refused (unknown_camera)" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_station_ends_in_order(number, station, run):
    """Ctrl-C and SIGTERM end `edgead run` with 0, a sentence about what it did, and no traceback."""
    path, process = station
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "0 frames, 0 inspections, 0 refused messages" in err
    assert "Traceback" not in err
    assert run("status", "--station", path).code == 7
