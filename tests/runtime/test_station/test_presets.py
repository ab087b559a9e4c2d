"""Detector presets: the shipped ones are what they say, and any other is checked like a station file."""

import pytest

from edgead import BUILTIN_PLUGINS
from plugins.hetmm.settings import HetmmSettings
from runtime.errors import ConfigError
from runtime.registry import load_plugins
from runtime.station.presets import load_preset, preset_names


def hetmm(name):
    """Return the settings HETMM makes of a shipped preset."""
    preset = load_preset(name)
    assert preset.detector == "hetmm"
    return HetmmSettings.model_validate(preset.settings)


def test_hetmm_spells_out_the_defaults():
    """The preset hetmm names every setting with its default."""
    assert hetmm("hetmm") == HetmmSettings()
    assert load_preset("hetmm").settings.keys() == HetmmSettings.model_fields.keys()


def test_hetmm_d0_is_the_specifications_table():
    """The preset hetmm-d0 differs from the defaults in its three tables and nothing else."""
    assert hetmm("hetmm-d0") == HetmmSettings(windows="d0", alpha="d0", weight="d0")


def test_hetmm_auto_chooses_the_windows():
    """The preset hetmm-auto leaves the windows to the good frames."""
    assert hetmm("hetmm-auto") == HetmmSettings(windows="auto")


def test_presets_are_listed_without_station_files():
    """The names are those of the preset files, a folder's name first; the station file beside them is none."""
    names = preset_names()
    assert names == sorted(names)
    assert [name for name in names if not name.startswith("hetmm-mvtec-")] == [
        "cpr", "cpr-fast", "cpr-faster", "cpr-faster-quick", "hetmm", "hetmm-auto", "hetmm-d0", "mspba",
        "mspba-budget", "mspba-full", "prn", "prn-full",
    ]  # fmt: skip
    assert len(names) == 12 + 15
    assert {"hetmm-mvtec-bottle", "hetmm-mvtec-metal_nut"} < set(names)


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads(name):
    """Each shipped preset loads and its detector accepts its settings."""
    preset = load_preset(name)
    assert load_plugins(BUILTIN_PLUGINS).detector(preset.detector).settings_model.model_validate(preset.settings)


@pytest.mark.parametrize("name", ["hetm", "station", "", "..", "HETMM"])
def test_an_unknown_name_lists_the_known_ones(name):
    """A name that is no preset is refused with the names that are."""
    with pytest.raises(ConfigError, match="hetmm, hetmm-auto, hetmm-d0"):
        load_preset(name)


def test_a_path_is_a_file(tmp_path):
    """Whatever has a folder or a .yaml in it is read from disk, text or Path."""
    path = tmp_path / "mine.yaml"
    path.write_text("schema: edgead.preset/1\ndetector: brightness\nsettings: {map_side: 32}\n", encoding="utf-8")
    for given in (path, str(path)):
        assert load_preset(given).settings == {"map_side": 32}
    with pytest.raises(ConfigError, match="no such file"):
        load_preset(tmp_path / "hetmm")


def test_a_faulty_preset_has_each_fault_with_its_line(tmp_path):
    """Unknown keys and a wrong schema are told with file and line."""
    path = tmp_path / "mine.yaml"
    path.write_text("schema: edgead.station/1\ndetector: hetmm\nsetting: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refusal:
        load_preset(path)
    first, second = str(refusal.value).splitlines()
    assert first.startswith(f"{path}:1: schema: ")
    assert second == f"{path}:3: setting: unknown key; remove it or check its spelling"
