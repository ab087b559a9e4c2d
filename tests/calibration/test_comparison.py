"""All detectors side by side: each in a process of its own, a failing one a row, what is done not computed again."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from calibration.comparison import ComparisonJob, run_comparison
from calibration.comparison.examples import choose_examples
from calibration.comparison.page import markdown
from calibration.comparison.rows import COLUMNS, Done, choose_rows, key_of, read_row, write_row
from calibration.dataset import Sample
from runtime.errors import ConfigError
from runtime.registry import load_plugins

#: Small plugins that are sound, or broken in one way, and quick either way.
TOYS = Path(__file__).with_name("test_conformance")
BUILTINS = ("broken_detectors",)


def ignore(*_):
    """Show no progress."""


@pytest.fixture
def registry(monkeypatch):
    """Load the toys here, and let the processes find them."""
    monkeypatch.syspath_prepend(TOYS)
    monkeypatch.setenv("PYTHONPATH", str(TOYS))
    yield load_plugins(BUILTINS, entry_points=False)
    for name in ("broken_detectors", "broken_graphs"):
        sys.modules.pop(name, None)


@pytest.fixture
def preset(tmp_path):
    """Write a preset for the sound toy; return its path."""
    file = tmp_path / "quiet.yaml"
    file.write_text("schema: edgead.preset/1\ndetector: sound\nsettings: {least_spread: 8.0}\n")
    return str(file)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_pages_and_resuming(registry, dataset, preset, tmp_path):
    """A sound detector has figures and maps, broken ones reasons; the next run computes only what is not there."""
    wanted = {"dataset": dataset.root, "report": tmp_path / "out", "detectors": ("sound", "small-map"), "threads": 1}
    record = run_comparison(ComparisonJob(presets=(preset,), **wanted), registry, BUILTINS, ignore)
    quiet, small = record["rows"]
    assert (quiet["label"], small["label"]) == ("sound: quiet", "small-map")
    assert {key for key, *_ in COLUMNS} <= quiet["figures"].keys()
    assert quiet["figures"]["settings"] == {"least_spread": 8.0}
    assert "expected a map of shape (1, 16, 16)" in small["error"]
    assert len(quiet["examples"]) == 8

    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 2 * 8
    assert not re.search(r"<script|https?://|src=\"(?!data:)", page)
    assert "<b>small-map</b> failed" in page
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == record
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert f"| sound: quiet | {quiet['figures']['image_auroc']:.4f} |" in table
    assert "* small-map: failed: plugin 'small-map'" in table

    names = set()

    def computed(_done, _total, what):
        names.add(what.partition(":")[0])

    again = run_comparison(ComparisonJob(presets=(preset,), **wanted), registry, BUILTINS, computed)
    assert again["rows"][0] == quiet
    assert "quiet" not in names
    assert [file.name for file in (tmp_path / "out" / "rows").glob("*.json")] == [
        "quiet.json"
    ]  # the rest is tried again
    (tmp_path / "out" / "rows" / "quiet-0.jpg").unlink()
    sound = ComparisonJob(presets=(preset,), **wanted | {"detectors": ("sound",)})
    run_comparison(sound, registry, BUILTINS, computed)
    assert names == {"quiet"}


def test_a_preset_belongs_to_its_detector(registry, preset):
    """Each preset is a row of the detector it names; the others keep their defaults."""
    rows = {row.name: (row.detector, row.preset) for row in choose_rows(registry, ["leaky", "sound"], [preset])}
    assert rows == {"leaky": ("leaky", None), "quiet": ("sound", preset)}
    assert {row.name for row in choose_rows(registry, [], [])} == set(registry.detectors)


def test_what_cannot_be_compared_is_refused(registry, preset):
    """Unknown detectors, presets of others and two rows of one name are refused before anything is computed."""
    with pytest.raises(ConfigError, match=r"expected some of .*sound.*found nosuch"):
        choose_rows(registry, ["nosuch"], [])
    with pytest.raises(ConfigError, match="expected one for leaky, found one for sound"):
        choose_rows(registry, ["leaky"], [preset])
    with pytest.raises(ConfigError, match="different names"):
        choose_rows(registry, [], [preset, preset])


def test_a_row_is_kept_for_its_data_set_alone(registry, dataset, tmp_path):
    """The same data set gives a row its figures back; another mask or another seed does not; no room is an error."""
    [row] = choose_rows(registry, ["sound"], [])
    (tmp_path / "rows").mkdir()
    key = key_of(row, registry, dataset, {"seed": 0})
    write_row(Done(row, {"n": 1}, ()), tmp_path, key)
    assert read_row(row, tmp_path, key_of(row, registry, dataset, {"seed": 0})) == Done(row, {"n": 1}, [])
    assert read_row(row, tmp_path, key_of(row, registry, dataset, {"seed": 1})) is None
    number = next(number for number, sample in enumerate(dataset.test) if sample.mask_path)
    mask = tmp_path / "mask.png"
    mask.write_bytes(dataset.test[number].mask_path.read_bytes() + b"0")
    test = [*dataset.test[:number], replace(dataset.test[number], mask_path=mask), *dataset.test[number + 1 :]]
    assert read_row(row, tmp_path, key_of(row, registry, replace(dataset, test=test), {"seed": 0})) is None
    with pytest.raises(ConfigError, match="cannot keep a row"):
        write_row(Done(row, {}, ()), tmp_path / "nowhere", key)


def test_examples_take_turns(dataset):
    """One good image first, then every class in turn, the same ones each time."""
    examples = choose_examples(dataset, 10)
    assert [sample.label for sample in examples[:1]] == ["good"]
    classes = sorted({sample.label for sample in dataset.test} - {"good"})
    assert sorted(sample.label for sample in examples[1:8]) == classes
    assert len({sample.name for sample in examples}) == 10
    assert examples == choose_examples(dataset, 10)
    assert choose_examples(type(dataset)(dataset.root, (), (Sample(Path("a"), "a", "crack", None),))) != []


def test_a_figure_that_is_not_defined_is_a_dash():
    """A row that failed, and a figure without truth, show as a dash, not as zero."""
    row = {"label": "a", "figures": {"image_auroc": 1.0, "pixel_auroc": None}, "error": "", "preset": None}
    made = {"device": "cpu", "threads": 1, "cores": 2, "torch": "2", "seed": 0}
    text = markdown({"dataset": "d", "rows": [row], "circumstances": made})
    assert "| a | 1.0000 | - | - |" in text
