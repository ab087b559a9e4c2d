"""Presets and settings of mspba: what ships is what the documentation and the comments say."""

from pathlib import Path

import pytest

from plugins.mspba.settings import MspbaSettings
from runtime.station.presets import load_preset

DOCS = Path(__file__).parents[2] / "docs" / "mspba.md"


def test_the_preset_spells_the_defaults_out():
    """mspba.yaml has every setting, each with its default."""
    preset = load_preset("mspba")
    assert preset.settings.keys() == MspbaSettings.model_fields.keys()
    assert MspbaSettings.model_validate(preset.settings) == MspbaSettings()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("mspba-budget", {"train": "budget"}),
        ("mspba-full", {"backbone": "vgg16", "train": "full", "balance": False, "bank_rows": 20_000}),
    ],
)
def test_the_trained_presets_differ_in_what_they_say(name, given):
    """The trained forms change their few settings and nothing else."""
    assert MspbaSettings.model_validate(load_preset(name).settings) == MspbaSettings(**given)


def test_every_choice_is_documented():
    """The page names every setting that a user would turn, and both backbones."""
    text = DOCS.read_text(encoding="utf-8")
    for name in ("train", "backbone", "mode", "bank_rows", "spare_rows", "balance", "parity", "similarity_weight"):
        assert f"`{name}" in text
    assert "`efficientnet_lite0`" in text
    assert "`vgg16`" in text
