"""The machine-readable side: with --json the last line of stdout is one JSON value with the promised keys."""

import csv
import json
import math

import numpy as np
import pytest

from calibration.dataset import read_dataset
from calibration.metrics import auroc
from runtime.store import Store

MEASURES = {"image_auroc", "pixel_auroc", "pixel_ap", "pro"}
DEFECTS = {"scratch", "dent", "stain", "missing_hole", "smeared_print", "chip", "contamination"}


@pytest.fixture(scope="module")
def evaluated(dataset, tmp_path_factory):
    """Return the folder of scores and maps, and the figures, of one evaluation by command line."""
    import subprocess

    from runtime.local import edgead_command

    folder = tmp_path_factory.mktemp("evaluated")
    options = ["--set", "image_size=64", "--set", "windows=d0", "--threads", "1", "--json"]
    options += ["--scores", "out/scores.csv", "--maps", "maps"]
    command = edgead_command("evaluate", str(dataset), *options)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=True)
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_evaluate(evaluated):
    """`evaluate --json` has the promised figures over all and per class, each a share of 1, and counts what it read."""
    _, figures = evaluated
    wanted = {"detector", "per_class", "n_references", "n_test", "calibrate_s", "template"}
    assert figures.keys() >= MEASURES | wanted | {"latency_ms_p50", "latency_ms_p99", "settings", "warnings"}
    assert (figures["detector"], figures["template"]) == ("hetmm", None)
    assert (figures["n_references"], figures["n_test"], figures["warnings"]) == (6, 10, [])
    assert figures["per_class"].keys() == DEFECTS
    for measures in (figures, *figures["per_class"].values()):
        assert all(0 <= measures[name] <= 1 for name in MEASURES)
    assert all(each["n"] == 4 for each in figures["per_class"].values())
    assert 0 < figures["latency_ms_p50"] <= figures["latency_ms_p99"]
    assert figures["calibrate_s"] > 0


def test_scores_are_those_of_the_figures(evaluated, dataset):
    """The CSV has a line for every test image, and its scores give the image AUROC of the figures again."""
    folder, figures = evaluated
    with (folder / "out" / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]] == ["path", "label", "score"]
    assert sorted(row["path"] for row in rows) == sorted(sample.name for sample in read_dataset(dataset).test)
    assert all(row["path"].split("/")[1] == row["label"] for row in rows)
    area = auroc([row["label"] != "good" for row in rows], [float(row["score"]) for row in rows])
    assert area == pytest.approx(figures["image_auroc"], abs=1e-12)


def test_maps_are_float32(evaluated, dataset):
    """--maps writes one finite float32 .npy of the map's size under every image's own path."""
    folder, _ = evaluated
    for sample in read_dataset(dataset).test:
        anomaly_map = np.load((folder / "maps" / sample.name).with_suffix(".npy"), allow_pickle=False)
        assert (anomaly_map.dtype, anomaly_map.shape) == (np.float32, (64, 64))
        assert np.isfinite(anomaly_map).all()


def test_evaluate_without_masks(dataset, tmp_path, quick, run):
    """Without masks the pixel measures are null, not zero, and the image measure is still there."""
    import shutil

    shutil.copytree(dataset / "train", tmp_path / "train")
    shutil.copytree(dataset / "test" / "good", tmp_path / "test" / "good")
    shutil.copytree(dataset / "test" / "dent", tmp_path / "test" / "dent")
    figures = run("evaluate", tmp_path, *quick, "--json").last
    assert figures["pro"] is figures["pixel_ap"] is figures["pixel_auroc"] is None
    assert 0 <= figures["image_auroc"] <= 1
    assert figures["per_class"]["dent"]["pro"] is None


def test_evaluate_a_stored_template(dataset, calibrated, run):
    """A template of the store is evaluated as it is: its id in the figures, no time spent on calibration."""
    store, template = calibrated
    figures = run("evaluate", dataset, "--store", store, "--template", template[:10], "--threads", "1", "--json").last
    assert (figures["template"], figures["calibrate_s"]) == (template, None)
    assert figures["settings"]["image_size"] == 64


def test_calibrate(dataset, tmp_path, quick, run):
    """`calibrate --json` names the template it stored, its thresholds and promise, and the report it wrote."""
    done = run("calibrate", dataset, "--product", "part", "--store", tmp_path / "s", *quick, "--json")
    summary = done.last
    manifest = Store(tmp_path / "s").template(summary["template"]).manifest
    assert summary["image_threshold"] == manifest.thresholds.image
    assert summary["pixel_threshold"] == manifest.thresholds.pixel
    assert summary["false_reject_bound"] == pytest.approx(1 / 7)
    assert (summary["active"], summary["n_references"], summary["held_out"]) == (False, 6, 6)
    assert tmp_path / "s" / "reports" in [*(tmp_path / summary["report"]).parents]
    assert "99" in summary["warnings"][0]
    assert f"note: {summary['warnings'][0]}" in done.err


def test_calibrate_without_held_out(dataset, tmp_path, quick, run):
    """--held-out 0 stores a template without thresholds and says what that means."""
    done = run("calibrate", dataset, "--product", "part", "--store", tmp_path, *quick, "--held-out", 0, "--json")
    assert done.code == 0
    assert done.last["image_threshold"] is None
    assert "NotDecidable" in done.last["warnings"][0]


def test_evaluate_says_what_it_left_out(dataset, tmp_path, quick, run):
    """What the reader of a set left unread is in the figures and on stderr."""
    import shutil

    shutil.copytree(dataset, tmp_path / "set")
    (tmp_path / "set" / "train" / "good" / "notes.txt").write_text("x")
    done = run("evaluate", tmp_path / "set", *quick, "--json")
    assert "notes.txt" in done.last["warnings"][0]
    assert "note: " in done.err


def test_plugins(run):
    """`plugins --json` lists each detector and publisher with where it came from and what can be set."""
    found = run("plugins", "--json").last
    assert found.keys() == {"detectors", "publishers", "broken"}
    (modbus,) = [each for each in found["publishers"] if each["name"] == "modbus"]
    assert (modbus["distribution"], modbus["needs"]) == ("edgead (built in)", "edgead[modbus]")
    assert modbus["options"]
    (hetmm,) = [each for each in found["detectors"] if each["name"] == "hetmm"]
    assert hetmm["plugin"] == "plugins.hetmm"
    assert {"image_size", "windows"} <= {*hetmm["settings"]}


def test_doctor(run):
    """`doctor --json` is a list of findings, each with a check, one of four words and a detail."""
    done = run("doctor", "--json")
    assert {"python", "system", "memory", "torch", "detector hetmm"} <= {each["check"] for each in done.last}
    assert {each["status"] for each in done.last} <= {"ok", "note", "warn", "fail"}
    assert done.code == (1 if any(each["status"] == "fail" for each in done.last) else 0)


def test_weights(run):
    """`weights list --json` says of every weight file what it is, where it comes from and whether it is here."""
    listed = {each["name"]: each for each in run("weights", "list", "--json").last}
    assert listed["efficientnet_lite0"]["state"] == "present"
    assert all(each.keys() == {"name", "state", "file", "sha256", "url", "licence"} for each in listed.values())
    assert listed["resnet18"]["state"] == "missing"


def test_validate(calibrated, tmp_path, run):
    """`validate --json` is ok exactly when every check is; --schema prints the schema of station files."""
    store, _ = calibrated
    station = tmp_path / "station.yaml"
    text = f"schema: edgead.station/1\nstation: line1\nstore: {store}\ncameras: {{top: {{product: part}}}}\n"
    text += "".join(f"{key}: ipc://{tmp_path}/{key}\n" for key in ("frames", "results", "status"))
    station.write_text(text)
    done = run("validate", station, "--json")
    assert (done.code, done.last["ok"], done.last["station"]) == (0, True, str(station))
    assert {each["check"] for each in done.last["checks"]} >= {"station file", "store", "camera top"}
    station.write_text(text.replace("product: part", "product: other"))
    done = run("validate", station, "--json")
    assert (done.code, done.last["ok"]) == (2, False)
    assert [each["check"] for each in done.last["checks"] if not each["ok"]] == ["camera top"]
    assert run("validate", "--schema").last["title"] == "Station"


@pytest.mark.slow
@pytest.mark.system
def test_bench_host(start):
    """`bench host --json` has latency and throughput of all sides for each case, and says what was measured where."""
    process = start("bench", "host", "--frames", 10, "--json")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert figures.keys() == {"cases", "machine"}
    for case in figures["cases"]:
        sides = ("echo", "host", "ledger")
        for figure in [f"{side}_{figure}" for side in sides for figure in ("ms_p50", "ms_p99", "fps")]:
            assert math.isfinite(case[figure])
            assert case[figure] > 0
        assert case["ratio_p50"] == pytest.approx(case["host_ms_p50"] / case["echo_ms_p50"], abs=1e-3)
        assert case["ledger_ratio_p50"] == pytest.approx(case["ledger_ms_p50"] / case["echo_ms_p50"], abs=1e-3)
        assert case["ratio_p99"] == pytest.approx(case["host_ms_p99"] / case["echo_ms_p99"], abs=1e-3)
    assert [case["bytes"] for case in figures["cases"]] == [320 * 320 * 3, 2048 * 2448]
    assert figures["machine"].keys() >= {"cpu", "cores", "python", "pyzmq", "frames_per_case"}
