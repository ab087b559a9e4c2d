"""`edgead defects preview`: a contact sheet of what training will see."""

import cv2
import numpy as np
import pytest

from calibration.contact_sheet import COLUMNS, GAP_PX, TILE_PX
from calibration.jobs.preview import PreviewJob, run_preview
from calibration.synthetic.unseen import UNSEEN_KINDS
from runtime.errors import ConfigError
from runtime.testing.product import SimulatedProduct


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return a folder of four good parts."""
    folder = tmp_path_factory.mktemp("parts")
    for number in range(4):
        image = SimulatedProduct(seed=1).draw(number).image
        cv2.imwrite(str(folder / f"{number}.png"), image[:, :, ::-1])
    return folder


def test_every_defect_stands_above_its_mask(parts, tmp_path):
    """The sheet has as many cells as asked for; mask tiles are black and white, and the summary counts them."""
    summary = run_preview(PreviewJob(dataset=parts, out=tmp_path / "sheet.png", count=8, size=96))
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] == COLUMNS * (TILE_PX + GAP_PX) + GAP_PX
    mask = sheet[GAP_PX + TILE_PX :][: TILE_PX - 4, GAP_PX : GAP_PX + TILE_PX - 4]
    assert ((mask < 70) | (mask > 185)).mean() > 0.95
    assert sum(summary["kinds"].values()) == 8
    assert summary["defects"] == 8 - summary["kinds"].get("clean", 0)


def test_the_sheet_is_the_same_for_the_same_seed(parts, tmp_path):
    """Two runs write the same picture, another seed another one."""
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_preview(PreviewJob(dataset=parts, out=tmp_path / f"{name}.png", count=4, size=64, seed=seed))
        files.append(cv2.imread(str(tmp_path / f"{name}.png")))
    np.testing.assert_array_equal(files[0], files[1])
    assert (files[0] != files[2]).any()


def test_an_unknown_recipe_is_named(parts, tmp_path):
    """The error lists the recipes there are."""
    with pytest.raises(ConfigError, match="varied"):
        run_preview(PreviewJob(dataset=parts, out=tmp_path / "sheet.png", recipe="spicy"))


def test_unseen_damage_can_be_looked_at(parts, tmp_path):
    """With the recipe unseen the kinds trainings are judged by stand on the sheet in turn."""
    summary = run_preview(PreviewJob(dataset=parts, out=tmp_path / "sheet.png", recipe="unseen", count=12, size=96))
    assert summary["kinds"] == dict.fromkeys(sorted(UNSEEN_KINDS), 2)
    assert (tmp_path / "sheet.png").stat().st_size
