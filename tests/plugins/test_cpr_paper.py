"""The paper's evaluation of CPR: its tables, its one choice per category, and a run over a small set."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration.calibrate import CalibrationOptions
from calibration.layouts import BTAD, MVTEC_3D, MVTEC_AD
from calibration.protocol import ProtocolJob, run_protocol
from edgead import BUILTIN_PLUGINS, WeightsError
from plugins.cpr import Cpr, CprFast, CprFaster
from plugins.cpr.paper import PROTOCOLS, image_score
from runtime.registry import load_plugins
from runtime.testing.product import SimulatedProduct, write_dataset

PAPER = {protocol.name: protocol for protocol in PROTOCOLS}
SETS = {each.name: each for each in (MVTEC_AD, MVTEC_3D, BTAD)}


@pytest.mark.parametrize("dataset", SETS)
def test_means_are_those_of_the_categories(dataset):
    """Every category has its row, and the printed mean is the mean of the rows to the printed digit."""
    published = PAPER["cpr-paper"].published[dataset]
    assert published.categories.keys() == set(SETS[dataset].categories)
    for figure in ("pixel_ap", "pro", "pixel_auroc"):
        rows = [getattr(each, figure) for each in published.categories.values()]
        assert all(0.2 < value < 1 for value in rows)
        # The paper rounds each row to 0.1 %; its own mean of a table may be off by one digit.
        assert np.mean(rows) == pytest.approx(getattr(published, figure), abs=0.0011)


def test_image_figures_are_those_of_the_paper():
    """Image AUROC 99.7 on MVTec AD for CPR and CPR-fast, 99.4 for CPR-faster, not reported elsewhere."""
    figures = {name: each.published["mvtec-ad"].image_auroc for name, each in PAPER.items()}
    assert figures == {"cpr-paper": 0.997, "cpr-fast-paper": 0.997, "cpr-faster-paper": 0.994}
    assert [PAPER["cpr-paper"].published[name].image_auroc for name in ("mvtec-3d", "btad")] == [None, None]


def test_objects_have_a_foreground_and_textures_none():
    """Five textures of MVTec AD and one of BTAD; every other category is an object; settings are valid."""
    textures = set()
    for dataset, benchmark in SETS.items():
        for category in benchmark.categories:
            plan = PAPER["cpr-paper"].plan(dataset, category)
            settings = Cpr.settings_model.model_validate(plan.settings)
            assert (settings.kind == "texture") is (settings.foreground == "off")
            assert plan.is_published
            if settings.kind == "texture":
                textures.add(category)
    assert textures == {"carpet", "grid", "leather", "tile", "wood", "02"}
    for name, detector in (("cpr-fast-paper", CprFast), ("cpr-faster-paper", CprFaster)):
        settings = detector.settings_model.model_validate(PAPER[name].plan("mvtec-ad", "screw").settings)
        assert settings.backbone == ("efficientnet_b0" if detector is CprFaster else "densenet201")
        assert (settings.nearest, settings.raw_share, len(settings.layer_names)) == (10, 0.0, 2)


def test_score_is_the_mean_of_the_largest_pixels():
    """512 pixels count, or all of a smaller map."""
    ramp = np.arange(1024, dtype=np.float32).reshape(32, 32)
    assert image_score(ramp) == pytest.approx(np.arange(512, 1024).mean())
    assert image_score(np.full((3, 3), 0.25, np.float32)) == 0.25


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory):
    """Return a folder with an object and a texture of MVTec AD, played by two simulated products."""
    root = tmp_path_factory.mktemp("mvtec")
    for seed, category in enumerate(("screw", "tile")):
        write_dataset(root / category, SimulatedProduct(seed=seed, size=(128, 128)), 4, 3, 1)
    return root


def run(root, protocol, *settings):
    """Run a protocol as `edgead evaluate --protocol NAME --set ...` does."""
    job = ProtocolJob(protocol=protocol, dataset=root, settings=list(settings), options=CalibrationOptions(threads=1))
    return run_protocol(job, load_plugins(BUILTIN_PLUGINS), lambda *_: None)


def test_the_paper_without_its_weights_says_which_file_is_missing(mvtec, monkeypatch, tmp_path):
    """Where the paper's network is not here, one line says which file, and nothing is measured with another one."""
    monkeypatch.setenv("EDGEAD_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"densenet201-c1103571\.pth"):
        run(mvtec, "cpr-paper")


def test_a_run_shows_every_category_beside_its_published_figures(mvtec):
    """Figures of both categories, the published ones of each beside them, and what differs from the paper is said."""
    small = ["backbone=efficientnet_lite0", "image_size=80", "train=none"]
    figures = run(mvtec, "cpr-faster-paper", *small)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert {name: each["settings"]["kind"] for name, each in figures["categories"].items()} == {
        "screw": "object", "tile": "texture",
    }  # fmt: skip
    assert figures["published"] == {"image_auroc": 0.994, "pixel_auroc": 0.99, "pixel_ap": 0.806, "pro": 0.973}
    said = "\n".join(figures["warnings"])
    for words in ("13 of 15 categories", '--set train="none"', "full training", "B0"):
        assert words in said
    both = run(mvtec, "cpr-paper", *small)
    assert both["categories"]["screw"]["published"] == {"pixel_auroc": 0.997, "pixel_ap": 0.71, "pro": 0.987}
