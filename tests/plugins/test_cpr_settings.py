"""CPR's settings: defaults, presets, and what is refused before anything is learnt."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from plugins.cpr import Cpr, CprFast, CprFaster
from plugins.cpr.settings import CprFasterSettings, CprSettings, map_shapes, score_pixels_of
from runtime.station.presets import load_preset


@pytest.mark.parametrize("detector", [Cpr, CprFast, CprFaster])
def test_presets_spell_out_the_defaults(detector):
    """Each detector's preset names every setting with its default."""
    preset = load_preset(detector.name)
    assert preset.detector == detector.name
    assert detector.settings_model.model_validate(preset.settings) == detector.settings_model()
    assert preset.settings.keys() == detector.settings_model.model_fields.keys()


def test_the_quick_preset_is_the_papers_form():
    """Two layers, ten references and heads alone, everything else as by default."""
    preset = load_preset("cpr-faster-quick")
    quick = CprFasterSettings.model_validate(preset.settings)
    changed = {"layers": ("stage1", "stage2"), "nearest": 10, "raw_share": 0.0}
    assert quick == CprFasterSettings().model_copy(update=changed)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_size": 64}, "leave none of 5 x 5 blocks empty, found 64"),
        ({"image_size": 20}, "greater than or equal to 32"),
        ({"backbone": "resnet18"}, "expected one of densenet201, efficientnet_b0, efficientnet_lite0"),
        ({"layers": ("stage1", "stage9")}, "found stage9"),
        ({"layers": ("stage2",)}, r"expected strides 4, 8, ... in this order, found \[8\]"),
        ({"layers": ("stage2", "stage1")}, r"found \[8, 4\]"),
        ({"blur_kernel": 32}, "odd number, found 32"),
        ({"head_file": "x.pth", "train": "full"}, "used as they are"),
        ({"raw_share": (0.5, 0.5)}, "one number or 3, one for each layer, found 2"),
        ({"raw_share": 1.1}, "less than or equal to 1"),
        ({"references": 3}, "Extra inputs"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    """Sizes that do not fit the grid, unknown networks and stages, wrong strides and unknown keys are refused."""
    with pytest.raises(ValidationError, match=words):
        CprFasterSettings(**settings)


def test_only_the_embedded_form_leaves_the_paper():
    """DenseNet's two compare two layers, ten references and heads alone; cpr-faster adds what docs/cpr.md measures."""
    for detector in (Cpr, CprFast):
        paper = detector.settings_model()
        assert (len(paper.layer_names), paper.nearest, paper.raw_share) == (2, 10, 0.0)
    ours = CprFasterSettings()
    assert (ours.layer_names, ours.nearest, ours.raw_share) == (("stage1", "stage2", "stage3"), 40, "auto")
    assert len(CprFasterSettings(backbone="efficientnet_b0").layer_names) == 2


def test_maps_are_those_of_the_networks():
    """Sides follow the strides, rounded up; DenseNet's transition drops an odd last row."""
    assert map_shapes(CprFasterSettings(image_size=110)) == [(24, 28), (40, 14), (112, 7)]
    assert map_shapes(CprSettings(image_size=100)) == [(256, 25), (512, 12)]


def test_score_takes_the_same_share_of_any_map():
    """512 pixels at 320, a quarter of it at 160, never none, never more than engines can find or than there are."""
    sizes = {320: 512, 160: 128, 80: 32, 1000: 3840}
    assert {size: score_pixels_of(CprSettings(image_size=size)) for size in sizes} == sizes
    assert score_pixels_of(CprSettings(image_size=40, score_pixels=3000)) == 1600


def test_everything_auto_is_unresolved():
    """Settings count as resolved only when nothing is left to choose."""
    chosen = {"kind": "object", "foreground": "on", "score_pixels": 5, "raw_share": (0.5, 0.5, 1.0)}
    chosen |= {"layers": ("stage1", "stage2", "stage3")}
    assert CprFasterSettings(**chosen).resolved
    for name in chosen:
        assert not CprFasterSettings(**{**chosen, name: "auto"}).resolved
