"""The whole product from images to verdicts: the line says what the evaluation says, whoever wrote the detector."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.local import edgead_command, running_host
from runtime.station.config import load_station
from runtime.testing.product import SimulatedProduct, write_dataset
from runtime.testing.station import LocalStation, write_station

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
SAMPLE = Path(__file__).parents[1] / "sample_plugin"
REFERENCES = 20
PER_CLASS = {"good": 10, "blowhole": 6, "break": 6, "crack": 6, "fray": 6, "uneven": 6}
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def tiles(data_folder, tmp_path_factory) -> Path:
    """Return 20 references and 40 test images of the magnetic tiles, grey and each of another size."""
    source, target = data_folder / "mtd", tmp_path_factory.mktemp("mtd")
    empty = (source / "EMPTY_MASKS.txt").read_text(encoding="utf-8")
    chosen = sorted((source / "train" / "good").iterdir())[:REFERENCES]
    for label, count in PER_CLASS.items():
        images = [image for image in sorted((source / "test" / label).iterdir()) if image.stem not in empty][:count]
        chosen += images
        if label != "good":
            chosen += [source / "ground_truth" / label / f"{image.stem}_mask.png" for image in images]
    for path in chosen:
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return target


@pytest.fixture
def sample_installed(tmp_path, monkeypatch) -> None:
    """Install the sample plugin's wheel where the processes of this test find it, and nothing else does."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--no-index", "--target", str(site), str(SAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("PYTHONPATH", str(site))


def edgead(*arguments: object) -> Any:
    """Run a command that must succeed; return the JSON object it ends with."""
    command = edgead_command(*map(str, arguments), "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def agrees(dataset: Path, detector: str, folder: Path) -> None:
    """Calibrate, evaluate, then replay the test images through camera, host and worker, and compare."""
    store, scores = folder / "store", folder / "scores.csv"
    common = ("--detector", detector, "--store", store, "--threads", 2)
    summary = edgead("calibrate", dataset, "--product", "tile", "--activate", *common)
    edgead("evaluate", dataset, "--template", summary["template"], "--scores", scores, *common)
    with scores.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {Path(row["path"]).relative_to("test").as_posix(): float(row["score"]) for row in rows}
    camera = {"product": "tile", "detector": detector, "deadline_ms": 60_000, "queue": 8}
    path, log = write_station(folder, {"top": camera}, worker={"threads": 2}), folder / "host.log"
    station = load_station(path)
    with (
        running_host(edgead_command("run", str(path)), station.status, log) as host,
        LocalStation(path, station, host, log).subscriber() as subscriber,
    ):
        sent = edgead("camera", dataset / "test", "--station", path)
        received = [subscriber.receive(WAIT_MS) for _ in expected]
        assert subscriber.receive(500) is None
    assert host.returncode == 0
    assert (sent["sent"], sent["verdicts"].get("NotDecidable", 0)) == (len(expected), 0)
    inspections = [each.inspection for each in received]
    assert sorted(each.source for each in inspections) == sorted(expected)
    assert {each.source: each.score for each in inspections} == pytest.approx(expected, abs=1e-5)
    assert {each.template for each in inspections} == {summary["template"]}
    assert all((each.score > summary["image_threshold"]) is (each.verdict.label == "NotOK") for each in inspections)


@pytest.mark.data
def test_the_line_agrees_with_the_evaluation(tiles, tmp_path):
    """40 real images through camera, host and worker: one inspection each, with the scores of `edgead evaluate`."""
    agrees(tiles, "hetmm", tmp_path)


@pytest.mark.usefixtures("sample_installed")
def test_a_strangers_detector_on_the_line(tmp_path):
    """The sample plugin, installed from its wheel, calibrates, evaluates and runs in the host as one of ours does."""
    write_dataset(tmp_path / "parts", SimulatedProduct(seed=0, size=(160, 160)), 12, 6, 2)
    agrees(tmp_path / "parts", "brightness", tmp_path)
