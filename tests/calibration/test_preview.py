"""`edgead defects preview`: a contact sheet of what training will see."""

from typing import ClassVar

import cv2
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from calibration.contact_sheet import COLUMNS, GAP_PX, TILE_PX
from calibration.jobs.preview import PreviewJob, run_preview
from calibration.synthetic.unseen import UNSEEN_KINDS
from runtime.detector import Detector, MaskedFrame
from runtime.errors import ConfigError
from runtime.frame import Frame
from runtime.registry import RegisteredDetector, Registry
from runtime.testing.product import SimulatedProduct


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return a folder of four good parts."""
    folder = tmp_path_factory.mktemp("parts")
    for number in range(4):
        image = SimulatedProduct(seed=1).draw(number).image
        cv2.imwrite(str(folder / f"{number}.png"), image[:, :, ::-1])
    return folder


class Settings(BaseModel):
    """One setting."""

    model_config = ConfigDict(extra="forbid")
    side: int = 32


class Known(Detector):
    """A detector that trains on known pictures and does nothing else; ``asked`` keeps what it was asked for."""

    name, version, settings_model = "known", "1", Settings
    calibrate = graph = bank = None
    asked: ClassVar[list] = []

    def training_pictures(self, references, settings, context, count):
        """Return white pictures, every second with a piece missing."""
        self.asked.append((len(references), settings.side, context.seed))
        mask = np.zeros((settings.side, settings.side), bool)
        mask[4:8, 4:8] = True
        image = np.full((*mask.shape, 3), 255, np.uint8)
        return [
            MaskedFrame(Frame(image, ("clean", "missing piece")[n % 2]), mask if n % 2 else mask & ~mask)
            for n in range(count)
        ]


class Untrained(Known):
    """A detector that trains on nothing."""

    name = "untrained"
    training_pictures = Detector.training_pictures


def run(dataset, out, **asked):
    """Preview, with two detectors at hand."""
    registry = Registry(
        {each.name: RegisteredDetector(each.name, each, "test", "test 1") for each in (Known, Untrained)}
    )
    return run_preview(PreviewJob(dataset=dataset, out=out, **asked), registry, lambda *_: None)


def test_every_defect_stands_above_its_mask(parts, tmp_path):
    """The sheet has as many cells as asked for; mask tiles are black and white, and the summary counts them."""
    summary = run(parts, tmp_path / "sheet.png", count=8, size=96)
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
        run(parts, tmp_path / f"{name}.png", count=4, size=64, seed=seed)
        files.append(cv2.imread(str(tmp_path / f"{name}.png")))
    np.testing.assert_array_equal(files[0], files[1])
    assert (files[0] != files[2]).any()


def test_an_unknown_recipe_is_named(parts, tmp_path):
    """The error lists the recipes there are."""
    with pytest.raises(ConfigError, match="varied"):
        run(parts, tmp_path / "sheet.png", recipe="spicy")


def test_unseen_damage_can_be_looked_at(parts, tmp_path):
    """With the recipe unseen the kinds trainings are judged by stand on the sheet in turn."""
    summary = run(parts, tmp_path / "sheet.png", recipe="unseen", count=12, size=96)
    assert summary["kinds"] == dict.fromkeys(sorted(UNSEEN_KINDS), 2)
    assert (tmp_path / "sheet.png").stat().st_size


def test_a_detector_shows_what_it_trains_on(parts, tmp_path):
    """The sheet has the detector's own pictures, drawn with the settings and the seed that were given."""
    Known.asked.clear()
    summary = run(parts, tmp_path / "sheet.png", detector="known", settings=["side=40"], count=6, seed=3)
    assert Known.asked == [(4, 40, 3)]
    assert summary["kinds"] == {"clean": 3, "missing piece": 3}
    assert summary["median_area_share"] == pytest.approx(16 / 40**2)
    frame = cv2.imread(str(tmp_path / "sheet.png"))[GAP_PX:][: TILE_PX - 4, GAP_PX : GAP_PX + TILE_PX - 4]
    assert (frame == 255).all()


def test_a_sheet_that_cannot_be_written_is_said_before_anything_is_drawn(parts, tmp_path):
    """Drawing for a detector takes its backbone over every reference."""
    Known.asked.clear()
    with pytest.raises(ConfigError, match="expected a file that can be written"):
        run(parts, tmp_path, detector="known")
    assert not Known.asked


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"detector": "untrained"}, "one that shows what it trains on .*, found untrained"),
        ({"detector": "unheard"}, "installed are known, untrained"),
        ({"detector": "known", "settings": ["sdie=40"]}, "sdie"),
        ({"detector": "known", "recipe": "varied"}, "--recipe: expected none with --detector"),
        ({"detector": "known", "size": 96}, "--size: expected none with --detector"),
        ({"settings": ["side=40"]}, "--set: expected none without --detector"),
        ({"preset": "cpr-faster"}, "--preset: expected none without --detector"),
    ],
)
def test_what_cannot_be_shown_is_said(parts, tmp_path, asked, message):
    """Nothing is written, and the error names what was expected."""
    with pytest.raises(ConfigError, match=message):
        run(parts, tmp_path / "sheet.png", **asked)
    assert not (tmp_path / "sheet.png").exists()
