"""What is said about the templates of a store."""

import pytest

from runtime.detector import DetectorContext
from runtime.errors import TemplateError
from runtime.store import Store
from runtime.store.inventory import HEADINGS, describe_template, list_templates
from runtime.store.manifest import DetectorIdentity, Reference, Thresholds
from runtime.testing.nothing import Nothing


def put(store, product, image):
    """Store a template with image threshold ``image``; return its id."""
    content = Nothing().calibrate([], Nothing.settings_model(), DetectorContext())
    return store.put_template(
        product=product, settings={"a": 1},
        detector=DetectorIdentity(name="nothing", version="1", distribution="edgead"),
        bank=content.tensors, capacity=1, valid=1, map_shape=content.map_shape, golden=(), who="ann", why="first",
        references=[Reference(name="000.png", sha256="0" * 64)],
        thresholds=Thresholds(image=image, pixel=2.0, rule="fixed", target=0.01, bound=0.02, held_out=49),
    ).digest  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """Return a store with two templates of ``part``, the second active, and one of ``other``."""
    made = Store.create(tmp_path)
    made.ids = [put(made, "part", 1.0), put(made, "part", 3.0), put(made, "other", 1.0)]
    made.activate(made.ids[1], who="bob", why="better")
    return made


def test_the_list_marks_what_is_active(store):
    """Every template is listed with its figures, the active one marked; a product can be picked."""
    listed = {each["template"]: each for each in list_templates(store, None)}
    assert listed.keys() == {*store.ids}
    assert [listed[each]["active"] for each in store.ids] == [False, True, False]
    assert listed[store.ids[1]] == {
        "template": store.ids[1], "product": "part", "detector": "nothing", "active": True, "references": 1,
        "image_threshold": 3.0, "held_out": 49, "error": None,
    }  # fmt: skip
    assert {each["template"] for each in list_templates(store, "other")} == {store.ids[2]}
    assert HEADINGS["image_threshold"] == "threshold"
    assert HEADINGS.keys() | {"error"} == listed[store.ids[0]].keys()


def test_damage_is_listed(store, tmp_path):
    """A template whose manifest is damaged is listed with its error under the same keys, the others as ever."""
    manifest = tmp_path / "objects" / store.ids[0][:2] / store.ids[0][2:]
    manifest.chmod(0o644)
    manifest.write_bytes(b"{}")
    listed = {each["template"]: each for each in list_templates(store, "part")}
    assert listed.keys() == {*store.ids[:2]}
    assert listed[store.ids[0]]["error"]
    assert listed[store.ids[0]].keys() == listed[store.ids[1]].keys()
    assert listed[store.ids[1]]["error"] is None


def test_a_description_has_the_whole_manifest(store):
    """A description holds the manifest and the history; the brief one counts what is long."""
    whole = describe_template(store, store.ids[1][:8], brief=False)
    assert whole["template"] == store.ids[1]
    assert whole["thresholds"]["pixel"] == 2.0
    assert whole["references"] == [{"name": "000.png", "sha256": "0" * 64}]
    assert [line.split(maxsplit=1)[1] for line in whole["history"]] == ["ann: create first", "bob: activate better"]
    brief = describe_template(store, store.ids[1], brief=True)
    assert (brief["references"], brief["settings"], brief["pixel_threshold"]) == (1, "a=1", 2.0)
    assert (brief["pool_mb"], brief["derived_from"]) == (0.0, None)
    assert brief["history"].count(";") == 1


def test_an_unknown_template_is_refused(store):
    """An id the store does not hold is refused."""
    with pytest.raises(TemplateError):
        describe_template(store, "0000", brief=True)
