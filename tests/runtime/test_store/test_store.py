"""What the store promises when nothing goes wrong, and what it says when it is asked for what it has not."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from runtime.errors import TemplateError
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds


def test_template_comes_back_as_it_was_put(store, sample):
    """A second process finds the same id, arrays, golden frames and settings."""
    put = sample.put(store, 1)
    given = sample.content(1)
    found = Store(store.root).template(put.digest[:8])
    assert found.digest == put.digest
    assert found.manifest == put.manifest
    for name, array in found.bank().items():
        assert array.dtype == given["bank"][name].dtype
        assert np.array_equal(array, given["bank"][name])
    (golden,) = found.golden()
    assert np.array_equal(golden.frame, given["golden"][0].frame)
    assert np.array_equal(golden.anomaly_map, given["golden"][0].anomaly_map)
    assert golden.score == 0.25
    content = found.content()
    assert (content.settings, content.capacity, content.valid, content.map_shape) == (
        given["settings"],
        5,
        3,
        (3, 4),
    )


def test_bank_is_the_callers_own(store, sample):
    """Writing into a bank that was handed out changes neither the store nor the next bank."""
    template = sample.put(store, 1)
    template.bank()["offsets"][:] = 7
    assert np.array_equal(template.bank()["offsets"], sample.content(1)["bank"]["offsets"])


def test_equal_content_is_one_template(store, sample, tmp_path):
    """The id depends on content alone: not on who or when, not on the order of arrays, not on the store."""
    first = sample.put(store, 1)
    again = sample.content(1)
    again["bank"] = dict(reversed(again["bank"].items()))
    elsewhere = Store.create(tmp_path / "elsewhere").put_template(**again, who="somebody else")
    assert first.digest == elsewhere.digest == sample.put(store, 1).digest
    assert [entry.action for entry, _ in store.log("cap", "hetmm")] == ["create"]


def test_bank_of_a_transposed_array_is_its_values(store, sample):
    """A non-contiguous array is stored by value, not as its memory lies."""
    given = sample.content(1)
    given["bank"]["embeddings"] = np.arange(20, dtype=np.float32).reshape(4, 5).T
    found = store.put_template(**given, who="test").bank()["embeddings"]
    assert np.array_equal(found, given["bank"]["embeddings"])


def test_other_thresholds_share_the_arrays(store, sample):
    """A changed threshold is another template with the same bank object, and names its parent."""
    old = sample.put(store, 1)
    cuts = Thresholds(image=9.0, pixel=1.0, rule="manual", target=None, bound=None, held_out=0)
    new = store.put_manifest(old.manifest.model_copy(update={"thresholds": cuts, "parent": old.digest}), who="test")
    assert new.digest != old.digest
    assert new.manifest.bank == old.manifest.bank
    assert store.template(new.digest).manifest.parent == old.digest
    assert store.verify() == []


def test_manifest_whose_sizes_lie_is_not_stored(store, sample):
    """A manifest that gives the bank another size than it has is refused, its digest being right or not."""
    old = sample.put(store, 1)
    bank = old.manifest.bank.model_copy(update={"size": old.manifest.bank.size + 1})
    with pytest.raises(TemplateError, match=f"expected {bank.size} bytes, found {bank.size - 1}"):
        store.put_manifest(old.manifest.model_copy(update={"bank": bank}), who="test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"valid": 6}, "expected valid <= capacity, found 6 > 5"),
        ({"product": "../cap"}, "product: String should match"),
        ({"settings": {"ratio": float("nan")}}, "finite numbers"),
        ({"held_out_scores": [float("inf")]}, "finite numbers"),
        ({"bank": {"x": np.array([1.0, np.nan], np.float32)}}, r"found nan in 'x' at \[1\]"),
        ({"bank": {"x": np.zeros(2)}}, "found float64"),
        ({"map_shape": (4, 3)}, r"map.0 float32 \[4, 3\]"),
        ({"who": ""}, "who: String should have at least 1"),
    ],
)
def test_unlawful_template_is_not_stored(store, sample, change, message):
    """What could not be activated is refused when it is put, with the field named, and is not listed."""
    with pytest.raises(TemplateError, match=message):
        store.put_template(**({"who": "test"} | sample.content(1) | change))
    assert store.listed() == []
    assert store.verify() == []


def test_activation_moves_one_ref(store, abc, sample):
    """Activation concerns one product and one detector; another detector's template stays active."""
    other = sample.put(store, 1, detector="cpr")
    store.activate(other.digest, who="test")
    done = store.activate(abc[1], who="ann", why="new lamp")
    assert (done.old, done.new, done.changed) == (abc[0], abc[1], True)
    assert store.active("cap", "hetmm").digest == abc[1]
    assert store.active("cap", "cpr").digest == other.digest


def test_activating_the_active_template_changes_nothing(store, abc):
    """A second activation of the same template says so and writes no log entry."""
    before = store.log("cap", "hetmm")
    done = store.activate(abc[0], who="test")
    assert not done.changed
    assert store.log("cap", "hetmm") == before


def test_rollback_walks_back_and_can_be_walked_again(store, abc):
    """After a, b, c a rollback gives b, then a, then refuses; a later activation starts from there."""
    a, b, c = abc
    store.activate(b, who="test")
    store.activate(c, who="test")
    assert store.rollback("cap", "hetmm", who="test").new == b
    assert store.rollback("cap", "hetmm", who="test").new == a
    with pytest.raises(TemplateError, match="active before for cap/hetmm, found none"):
        store.rollback("cap", "hetmm", who="test")
    assert store.active("cap", "hetmm").digest == a
    store.activate(c, who="test")
    assert store.rollback("cap", "hetmm", who="test").new == a
    assert store.verify() == []


def test_undo_goes_back_to_what_was_active_before(store, abc):
    """What failed is rolled back, so that a later rollback does not bring it again; who and why are in the log."""
    a, b, c = abc
    product, detector = "cap", "hetmm"
    for digest in (b, c):  # a is active to begin with
        store.activate(digest, who="test")
    assert store.undo(c, b, who="guard", why="too many NotOK")
    entry = store.log(product, detector)[-1][0]
    assert (entry.action, entry.who, entry.why, entry.new) == ("rollback", "guard", "too many NotOK", b)
    assert store.rollback(product, detector, who="test").new == a


def test_undo_leaves_somebody_elses_choice_alone(store, abc):
    """Where another template is active by now nothing is written; one never active before is activated."""
    a, b, c = abc
    product, detector = "cap", "hetmm"
    before = len(store.log(product, detector))
    assert not store.undo(b, c, who="guard", why="")
    assert len(store.log(product, detector)) == before
    assert store.undo(a, c, who="guard", why="")
    assert store.log(product, detector)[-1][0].action == "activate"


def test_rollback_of_a_return_is_not_a_circle(store, abc):
    """After a, b, a two rollbacks give b and a, and a third has nowhere to go."""
    a, b, _ = abc
    store.activate(b, who="test")
    store.activate(a, who="test")
    assert [store.rollback("cap", "hetmm", who="test").new for _ in range(2)] == [b, a]
    with pytest.raises(TemplateError, match="found none"):
        store.rollback("cap", "hetmm", who="test")


def test_log_says_who_when_what_and_why(store, abc):
    """Every change is one entry in order, with its time in UTC."""
    store.activate(abc[1], who="ann", why="new lamp")
    entries = [entry for entry, took_effect in store.log("cap", "hetmm") if took_effect]
    assert [entry.action for entry in entries] == ["create"] * 3 + ["activate"] * 2
    last = entries[-1]
    assert (last.who, last.why, last.old, last.new) == ("ann", "new lamp", abc[0], abc[1])
    assert datetime.fromisoformat(last.time).utcoffset() == timedelta(0)
    assert last.time.endswith("Z")


def test_templates_are_listed_by_product(store, abc, sample):
    """Listing gives every template, or one product's."""
    lid = sample.put(store, 1, product="lid")
    assert {each.digest for each in store.templates("cap")} == set(abc)
    assert store.templates("lid") == [lid]
    assert len(store.templates()) == 4
    assert store.listed("lid") == [("lid", lid.digest)]


def test_prefix_that_fits_none_or_many_is_refused(store, abc, monkeypatch):
    """An unknown, ambiguous or malformed id says what was found and how to list templates."""
    unknown = next(prefix for prefix in ("0000", "ffff", "aaaa") if not any(d.startswith(prefix) for d in abc))
    for wrong in (unknown, "abc", "xyzw", abc[0] + "0", ""):
        with pytest.raises(TemplateError, match="edgead templates list"):
            store.template(wrong)
    twins = [("cap", "12345" + "0" * 59), ("cap", "12346" + "0" * 59)]
    monkeypatch.setattr(store._refs, "listed", lambda: twins)
    with pytest.raises(TemplateError, match="begins with 1234, found 123450000000, 123460000000"):
        store.template("1234")


def test_nothing_active_says_how_to_change_that(store):
    """Asking for the active template of a new product names both ways to get one."""
    with pytest.raises(TemplateError, match=r"edgead calibrate … --activate.*edgead templates activate"):
        store.active("cap", "hetmm")


def test_identity_version_fits_a_message(sample):
    """A version of 512 bytes is stored, an empty or a longer one is not: an inspection could not carry it."""
    given = sample.content(0)["detector"].model_dump()
    assert DetectorIdentity(**given | {"version": "\u00e9" * 256}).version == "\u00e9" * 256
    for wrong in ("", "\u00e9" * 256 + "x"):
        with pytest.raises(ValidationError, match="1 to 512 bytes"):
            DetectorIdentity(**given | {"version": wrong})


@pytest.mark.parametrize("name", ["../x", "", "A", "a/b", ".hidden", "a" * 65, "a\n"])
def test_names_that_are_no_slug_never_become_paths(store, name):
    """A product or detector name that could leave the store's folder is refused."""
    with pytest.raises(TemplateError, match="found"):
        store.active(name, "hetmm")
    with pytest.raises(TemplateError, match="found"):
        store.rollback("cap", name, who="test")


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    """Opening needs a store, creating needs an empty folder, and a later format says to update."""
    with pytest.raises(TemplateError, match="expected a template store"):
        Store(tmp_path)
    (tmp_path / "photo.png").touch()
    with pytest.raises(TemplateError, match="expected an empty folder"):
        Store.create(tmp_path)
    (tmp_path / "format").write_text("edgead.store/2\n")
    with pytest.raises(TemplateError, match="update edgead"):
        Store(tmp_path)
    assert Store.create(Store.create(tmp_path / "new").root).listed() == []


def test_no_file_is_writable_by_others(store, abc):
    """Nobody but the owner can write to any file or folder of the store, and objects are read-only."""
    assert store.active("cap", "hetmm").digest == abc[0]
    paths = [store.root, *store.root.rglob("*")]
    assert not [path for path in paths if path.stat().st_mode & (stat.S_IWOTH | stat.S_IWGRP)]
    objects = [path for path in (store.root / "objects").rglob("*") if path.is_file()]
    assert len(objects) == 9
    assert {stat.S_IMODE(path.stat().st_mode) for path in objects} == {0o444}
    assert not list(Path(store.root / "tmp").iterdir())
