"""Learning by command line: compact templates, new good variations, and a paper's protocol."""

import pytest

from runtime.images import write_png
from runtime.testing.product import SimulatedProduct


@pytest.fixture
def store(dataset, tmp_path, quick, run):
    """Return (store, id): a PTS template of 3 sheets from 6 references, active."""
    folder = tmp_path / "store"
    chosen = ("--templates", "pts", "--sheets", "3")
    done = run("calibrate", dataset, "--product", "part", "--store", folder, *quick, *chosen, "--activate", "--json")
    return folder, done.last["template"]


@pytest.fixture
def new_frames(tmp_path):
    """Return a folder with two good frames the product was never seen in: their negatives."""
    folder = tmp_path / "new"
    folder.mkdir()
    product = SimulatedProduct(seed=0, size=(128, 128))
    for index in (90, 91):
        write_png(folder / f"negative{index}.png", 255 - product.draw(index).image)
    return folder


def test_templates_and_sheets_are_settings_of_the_detector(store, run):
    """`--templates pts --sheets 3` makes a template of three sheets that knows all six references."""
    shown = run("templates", "show", store[1][:8], "--store", store[0], "--json").last
    assert (shown["settings"]["templates"], shown["settings"]["sheets"]) == ("pts", 3)
    assert shown["bank"]["valid"] == 3
    assert shown["statistics"]["references"] == 6


def test_detector_without_templates_refuses_the_option(dataset, tmp_path, run):
    """A word that is neither all nor pts is refused with the words there are."""
    done = run("calibrate", dataset, "--product", "part", "--store", tmp_path / "s", "--templates", "some")
    assert done.code == 2
    assert "'all' or 'pts'" in done.err


def test_extend_makes_a_new_template_that_knows_the_frames(store, new_frames, run):
    """`extend` inserts frames that look new, lowers their scores, keeps the old template and activates only if told."""
    folder, parent = store
    common = ("extend", new_frames, "--product", "part", "--store", folder, "--threads", "1")
    summary = run(*common, "--json").last
    assert summary["parent"] == parent != summary["template"]
    assert not summary["active"]
    assert len(summary["inserted"]) == 2
    assert all(each["after"] < each["before"] for each in summary["scores"])
    assert run(*common, "--activate", "--json", "--why", "night shift").last["active"]
    listed = run("templates", "list", "--store", folder, "--json").last
    assert {each["template"]: each["active"] for each in listed} == {parent: False, summary["template"]: True}


def test_extend_shows_scores_as_a_table(store, new_frames, run):
    """Without --json a person reads each frame's score before and after."""
    done = run("extend", new_frames, "--product", "part", "--store", store[0], "--threads", "1")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines() if line.strip().startswith("negative")]
    assert [(row[0], row[-1]) for row in rows] == [("negative90.png", "yes"), ("negative91.png", "yes")]
    assert "before" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_extend_names_the_frames_that_may_be_defects(store, new_frames, run):
    """A frame above the threshold is named in a note, and what the table says of lists are counts."""
    done = run("extend", new_frames, "--product", "part", "--store", store[0], "--threads", "1")
    (note,) = [line for line in done.err.splitlines() if "score above the threshold" in line]
    assert "2 of 2" in note
    assert "(negative90.png, negative91.png)" in note
    assert ["inserted", "2"] in [line.split() for line in done.out.splitlines()]


def test_extend_with_nothing_new_shows_no_empty_table(store, dataset, run):
    """Frames that are references already are counted as such, and no table of scores is shown."""
    done = run("extend", dataset / "train" / "good", "--product", "part", "--store", store[0], "--threads", "1")
    assert done.code == 0
    assert "6 already a reference" in done.out
    assert "before" not in done.out
    assert "no frame was inserted" in done.err


def test_extend_of_nothing_known_is_an_error(tmp_path, new_frames, run):
    """Extending where no store is says so in one line."""
    done = run("extend", new_frames, "--product", "part", "--store", tmp_path / "none")
    assert done.code == 4
    assert "edgead calibrate" in done.err


def test_protocol_shows_published_figures_beside_measured_ones(dataset, tmp_path, run):
    """`evaluate --protocol hetmm-paper` over a benchmark with one category prints both figures."""
    root = tmp_path / "mvtec"
    root.mkdir()
    (root / "bottle").symlink_to(dataset, target_is_directory=True)
    common = ("evaluate", root, "--protocol", "hetmm-paper", "--set", "backbone=efficientnet_lite0", "--threads", "1")
    done = run(*common, "--set", "image_size=64", "--json")
    assert done.last["published"]["image_auroc"] == 0.998
    assert 0 <= done.last["mean"]["image_auroc"] <= 1
    assert "missing" in done.err
    refused = run(*common, "--preset", "hetmm")
    assert refused.code == 2
    assert "--preset" in refused.err
