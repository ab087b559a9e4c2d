"""Defects by command line: what training will see of them, and real ones, images and masks as a user has them."""

import shutil

import pytest

from runtime.testing.product import DEFECTS

#: A training too short to be worth anything.
SHORT = ("--set", "image_size=128", "--set", "width=4", "--set", "train_steps=2", "--threads", "1")


@pytest.fixture
def defects(dataset, tmp_path):
    """Return a folder with one part of each kind of defect and its mask."""
    folder = tmp_path / "bad"
    (folder / "masks").mkdir(parents=True)
    for kind in DEFECTS:
        [image] = (dataset / "test" / kind).iterdir()
        shutil.copy(image, folder / f"{kind}.png")
        shutil.copy(dataset / "ground_truth" / kind / f"{image.stem}_mask.png", folder / "masks" / f"{kind}_mask.png")
    return folder


def test_a_preview_of_a_detectors_training(dataset, tmp_path, run):
    """Settings and seed reach the detector, and the sheet has as many pictures as asked for."""
    asked = ("defects", "preview", dataset, "--detector", "prn", "--count", "6", "--json")
    sheets = []
    for seed in ("2", "3"):
        sheet = tmp_path / f"{seed}.png"
        done = run(*asked, "--set", "image_size=128", "--seed", seed, "--out", sheet)
        assert done.code == 0
        assert sum(done.last["kinds"].values()) == 6
        sheets.append(sheet.read_bytes())
    assert sheets[0] != sheets[1]
    refused = run(*asked, "--set", "image_sise=128")
    assert refused.code == 2
    assert "image_sise" in refused.err


def test_a_preview_needs_a_detector_that_shows_its_training(dataset, run):
    """HETMM trains on nothing, and the error says so."""
    refused = run("defects", "preview", dataset, "--detector", "hetmm")
    assert refused.code == 2
    assert "shows what it trains on" in refused.err


@pytest.mark.slow
def test_prn_trains_with_real_defects(dataset, defects, tmp_path, run):
    """The template says how many real defects it was trained with; the checkpoint is gone when it is stored."""
    store, checkpoint = tmp_path / "store", tmp_path / "unfinished"
    places = ("--store", store, "--defects", defects, "--checkpoint", checkpoint)
    done = run("calibrate", dataset, "--product", "part", "--detector", "prn", *places, *SHORT, "--json")
    assert done.code == 0
    shown = run("templates", "show", done.last["template"], "--store", store, "--json").last
    assert shown["statistics"]["defects"] == len(DEFECTS)
    assert shown["thresholds"]["image"] is not None
    assert not list(checkpoint.iterdir())


def test_a_defect_without_its_mask_is_named_before_training(dataset, defects, tmp_path, run):
    """The image whose mask is missing is named with the place the mask belongs to, and nothing is stored."""
    (defects / "masks" / "dent_mask.png").unlink()
    places = ("--store", tmp_path / "store", "--defects", defects)
    done = run("calibrate", dataset, "--product", "part", "--detector", "prn", *places, *SHORT)
    assert done.code == 2
    assert f"expected a mask for dent.png at {defects / 'masks' / 'dent_mask.png'}, found none" in done.err
    assert not (tmp_path / "store").exists()
