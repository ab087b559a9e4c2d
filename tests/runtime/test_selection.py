"""What `edgead use` selects, what it refuses, and that a selection can be taken back without hurting anybody else's."""

import pytest

from runtime.errors import ConfigError, PluginError, TemplateError
from runtime.registry import load_plugins
from runtime.selection import choose, taken_back
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.nothing import Nothing
from runtime.testing.station import PRODUCT, put_template

REGISTRY = load_plugins(("runtime.testing.nothing", "runtime.testing.faulty"), entry_points=False)
TEXT = """schema: edgead.station/1
station: line1
# the only camera
cameras:
  top:
    product: part  # what comes along
    detector: nothing
"""


@pytest.fixture
def store(tmp_path):
    """Return a store with an active template of ``nothing``."""
    store = Store.create(tmp_path / "store")
    put_template(store, Nothing(), 1.0)
    return store


@pytest.fixture
def select(tmp_path, store):
    """Return a function that chooses a name for the station."""
    path = tmp_path / "station.yaml"
    path.write_text(TEXT)

    def chosen(name, camera=None):
        return choose(name, load_station(path), path, REGISTRY, camera=camera, who="me", why="trying")

    chosen.path = path
    chosen.store = store
    return chosen


def active(store, detector="nothing"):
    """Return the id of the active template."""
    return store.active(PRODUCT, detector).digest


def test_a_detector_goes_into_the_file(select):
    """A detector with an active template of the camera's product is written into the file, and taken back whole."""
    digest = put_template(select.store, Faulty(), 1.0)
    selection = select("faulty")
    assert select.path.read_text() == TEXT
    assert f"camera top: nothing -> faulty with template {digest[:12]}" in selection.sentence
    assert selection.select() is True
    assert select.path.read_text() == TEXT.replace("nothing", "faulty")
    assert "as it was" in selection.take_back()
    assert select.path.read_text() == TEXT


def test_a_detector_without_a_template(select):
    """Without an active template of that detector nothing is edited, and the error has the command that makes one."""
    with pytest.raises(TemplateError) as refusal:
        select("faulty")
    text = str(refusal.value)
    assert f"camera top: faulty cannot run for product {PRODUCT}" in text
    assert f"--product {PRODUCT} --detector faulty --store {select.store.root} --activate" in text
    assert select.path.read_text() == TEXT


def test_the_same_detector_is_no_change(select):
    """The detector the camera has is selected without touching the file."""
    before = select.path.stat().st_mtime_ns
    assert select("nothing").select() is False
    assert select.path.stat().st_mtime_ns == before


def test_which_camera(select):
    """With several cameras a detector needs one of them named; one that is not there is refused with those that are."""
    select.path.write_text(TEXT + "  side: {product: part, detector: nothing}\n")
    with pytest.raises(ConfigError, match="expected --camera with one of top, side"):
        select("nothing")
    with pytest.raises(ConfigError, match="--camera: expected one of top, side, found 'back'"):
        select("nothing", "back")
    assert select("nothing", "side").select() is False


def test_a_template_becomes_active(select):
    """A template, by its first digits, is activated with who and why, and the one before when it is taken back."""
    old = active(select.store)
    new = put_template(select.store, Nothing(), 2.0)
    select.store.activate(old, who="test")
    selection = select(new[:10])
    assert selection.select() is True
    assert active(select.store) == new
    assert (select.store.log(PRODUCT, "nothing")[-1][0].who, select.store.log(PRODUCT, "nothing")[-1][0].why) == (
        "me",
        "trying",
    )
    assert selection.take_back() == f"template {old[:12]} is active again"
    assert active(select.store) == old
    assert select.store.log(PRODUCT, "nothing")[-1][0].why == f"{new[:12]} was refused by the running station"
    assert select.path.read_text() == TEXT


def test_taking_back_respects_others(select):
    """What the host put back already, or what somebody else activated meanwhile, stays."""
    old = active(select.store)
    new = put_template(select.store, Nothing(), 2.0)
    third = put_template(select.store, Nothing(), 3.0)
    select.store.activate(old, who="test")
    selection = select(new)
    assert selection.take_back() == "nothing was activated"
    selection.select()
    select.store.activate(old, who="guard")
    assert taken_back(selection) == f"template {old[:12]} is active again"
    selection.select()
    select.store.activate(third, who="somebody")
    assert taken_back(selection) == f"template {third[:12]} stays active in the store"
    assert active(select.store) == third


def test_a_file_edited_meanwhile_is_not_taken_back(select):
    """A detector whose file somebody edited since stays in the file, and the sentence says so."""
    put_template(select.store, Faulty(), 1.0)
    selection = select("faulty")
    selection.select()
    select.path.write_text(select.path.read_text() + "# mine\n")
    assert "could not be taken back" in taken_back(selection)
    assert "# mine" in select.path.read_text()


def test_a_template_of_no_camera(select):
    """A template whose product and detector no camera runs is refused with what the cameras run."""
    digest = put_template(select.store, Faulty(), 1.0)
    with pytest.raises(ConfigError, match=r"no camera of the station runs \(top: part/nothing\): `edgead use faulty`"):
        select(digest)


def test_a_template_of_a_recipe(select):
    """A template that only a recipe of a camera runs belongs to that camera."""
    digest = put_template(select.store, Faulty(), 1.0)
    select.path.write_text(TEXT + "    recipes: {b: {product: part, detector: faulty}}\n")
    assert select(digest, "top").select() is False
    assert "camera top" in select(digest).sentence


@pytest.mark.parametrize("name", ["nosuch", "0" * 64, "abc"])
def test_neither_detector_nor_template(select, name):
    """A name that is neither is refused with the detectors there are."""
    with pytest.raises(ConfigError, match=r"expected a detector \(faulty, nothing\) or a template id"):
        select(name)


def test_a_template_of_another_version_is_refused(select, monkeypatch):
    """A template whose detector is installed in another version could not start: the active one stays."""
    old, new = active(select.store), put_template(select.store, Nothing(), 2.0)
    select.store.activate(old, who="test")
    monkeypatch.setattr(Nothing, "version", "99")
    with pytest.raises(TemplateError, match="installed is 99"):
        select(new)
    assert active(select.store) == old


def test_another_version_is_refused(select, monkeypatch):
    """A detector whose template another version made could not start: nothing is edited."""
    put_template(select.store, Faulty(), 1.0)
    monkeypatch.setattr(Faulty, "version", "99")
    with pytest.raises((TemplateError, PluginError), match="installed is 99"):
        select("faulty")
    assert select.path.read_text() == TEXT
