"""A new station's folder: complete, readable, and never over an old one."""

import json

import pytest

from runtime.errors import ConfigError
from runtime.station.config import load_station
from runtime.station.scaffold import make_station
from runtime.store import Store


def test_what_is_made_can_be_used(tmp_path):
    """The station file loads, its store is there, and the schema beside it is JSON."""
    folder = tmp_path / "new" / "line1"
    text = make_station(folder)
    station = load_station(folder / "station.yaml")
    assert Store(station.store).listed() == []
    assert (folder / "good").is_dir()
    assert json.loads((folder / "station.schema.json").read_text())["title"] == "Station"
    assert "#" in (folder / "station.yaml").read_text()
    (camera,) = station.cameras.values()
    assert f"--product {camera.product} " in text
    assert f"edgead run {folder}/station.yaml" in text


def test_a_station_is_never_overwritten(tmp_path):
    """A folder with a station is refused and stays as it is."""
    make_station(tmp_path)
    (tmp_path / "station.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"station\.yaml"):
        make_station(tmp_path)
    assert (tmp_path / "station.yaml").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path):
    """A file in the way is said so."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="file"):
        make_station(tmp_path / "file")


def test_advice_can_be_pasted(tmp_path):
    """Paths with spaces are quoted in the advice."""
    assert f"edgead run '{tmp_path}/line 1/station.yaml'" in make_station(tmp_path / "line 1")
