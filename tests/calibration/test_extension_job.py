"""The job behind `edgead extend`: which template it takes, what it stores, and what its summary says."""

import json
import shutil

import pytest

from calibration import jobs
from calibration.calibrate import CalibrationOptions
from calibration.extension import ExtensionOptions
from calibration.jobs import CalibrationJob, ExtensionJob, run_calibration, run_extension
from runtime.errors import ConfigError, TemplateError
from runtime.images import write_png
from runtime.registry import load_plugins
from runtime.store import Store
from runtime.testing.product import SimulatedProduct, write_dataset

REGISTRY = load_plugins(("plugins.hetmm", "runtime.testing.nothing"), entry_points=False)
EVERYTHING = ExtensionOptions(everything=True, threads=1)


def quiet(*_):
    """Show no progress."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with ``old`` and ``new`` good parts, and a store with an active template of the old ones."""
    root = tmp_path_factory.mktemp("extension")
    write_dataset(root / "set", SimulatedProduct(seed=0, size=(128, 128)), 8, 0, 0)
    for folder, numbers in (("old", range(5)), ("new", range(5, 8))):
        (root / folder).mkdir()
        for number in numbers:
            shutil.copy(root / "set" / "train" / "good" / f"{number:03d}.png", root / folder)
    wanted = CalibrationJob(
        dataset=root / "old", product="part", detector="hetmm", store=root / "store", activate=True, who="ann",
        settings=["image_size=64", "windows=d0"], options=CalibrationOptions(threads=1),
    )  # fmt: skip
    run_calibration(wanted, REGISTRY, quiet)
    return root


@pytest.fixture
def asked(made, tmp_path):
    """Return a function that makes a job on a copy of that store."""
    shutil.copytree(made / "store", tmp_path / "store")
    usual = {"frames": made / "new", "product": "part", "store": tmp_path / "store", "who": "bob"}
    return lambda **changes: ExtensionJob(**(usual | {"options": EVERYTHING} | changes))


@pytest.fixture
def store(asked):
    """Return the store those jobs work on."""
    return Store(asked().store)


def test_the_active_template_is_extended(asked, store):
    """Product and detector name the template; the summary is that of the new one, which is stored and not active."""
    parent = store.active("part", "hetmm")
    summary = run_extension(asked(), REGISTRY, quiet)
    template = store.template(summary["template"])
    manifest = template.manifest
    assert (summary["parent"], manifest.parent) == (parent.digest, parent.digest)
    assert (summary["product"], summary["detector"], summary["active"]) == ("part", "hetmm", False)
    assert summary["inserted"] == ["005.png", "006.png", "007.png"]
    assert summary["skipped"] == {}
    assert [each["frame"] for each in summary["scores"]] == summary["inserted"]
    assert all(each["after"] < each["before"] for each in summary["scores"])
    assert summary["thresholds"] == manifest.thresholds.model_dump(mode="json")
    assert (summary["n_references"], summary["capacity"], manifest.bank.valid) == (8, 8, 8)
    assert summary["extend_s"] > 0
    assert store.active("part", "hetmm").digest == parent.digest
    assert json.loads(json.dumps(summary)) == summary
    assert store.verify() == []


def test_it_runs_when_asked(asked, store):
    """With ``activate`` the new template is the active one, and the log says what was done to which."""
    parent = store.active("part", "hetmm").digest
    summary = run_extension(asked(activate=True), REGISTRY, quiet)
    assert summary["active"] is True
    assert store.active("part", "hetmm").digest == summary["template"]
    why = f"extended {parent[:12]} by 3 frames"
    last = [(entry.action, entry.who, entry.why) for entry, _ in store.log("part", "hetmm")][-2:]
    assert last == [("create", "bob", why), ("activate", "bob", why)]
    assert store.rollback("part", "hetmm", who="bob").new == parent


def test_a_template_that_hides_damage_is_not_activated(asked, store, tmp_path):
    """Where planted damage is found no more, the new template is stored and told about, and the old one goes on."""
    parent = store.active("part", "hetmm")
    folder = tmp_path / "damaged"
    folder.mkdir()
    for number, golden in enumerate(parent.golden()[3:]):
        write_png(folder / f"{number}.png", golden.frame)
    summary = run_extension(asked(frames=folder, activate=True), REGISTRY, quiet)
    assert summary["active"] is False
    assert any("edgead templates activate" in warning for warning in summary["warnings"])
    assert store.active("part", "hetmm").digest == parent.digest
    assert store.activate(summary["template"], who="bob").changed


def test_a_template_can_be_named(asked, store):
    """An id or its first digits name another template than the active one; the words of the operator are logged."""
    parent = store.active("part", "hetmm").digest
    longer = run_extension(asked(), REGISTRY, quiet)["template"]
    store.activate(longer, who="bob")
    again = run_extension(asked(template=parent[:8], why="again"), REGISTRY, quiet)
    assert (again["parent"], again["template"]) == (parent, longer)
    assert again["active"] is True
    with pytest.raises(ConfigError, match="found one of part and hetmm: add --product part --detector hetmm"):
        run_extension(asked(template=parent, product="lid"), REGISTRY, quiet)


def test_the_same_frames_again_change_nothing(asked, store):
    """Frames the template holds already are skipped by name; nothing is stored, logged or activated."""
    longer = run_extension(asked(activate=True), REGISTRY, quiet)
    before = store.listed(), store.log("part", "hetmm")
    again = run_extension(asked(activate=True), REGISTRY, quiet)
    assert (again["template"], again["parent"]) == (longer["template"], longer["template"])
    assert again["inserted"] == []
    assert again["skipped"] == {"already a reference": ["005.png", "006.png", "007.png"]}
    assert again["active"] is True
    assert again["warnings"][0].startswith("no frame was inserted: the template stays")
    assert (store.listed(), store.log("part", "hetmm")) == before


def test_nothing_inserted_activates_nothing(asked, store, made):
    """A template that was named, and got no new frame, does not become the active one by that."""
    parent = store.active("part", "hetmm").digest
    longer = run_extension(asked(activate=True), REGISTRY, quiet)["template"]
    idle = run_extension(asked(template=parent, frames=made / "old", activate=True), REGISTRY, quiet)
    assert (idle["template"], idle["active"]) == (parent, False)
    assert store.active("part", "hetmm").digest == longer


def test_thresholds_are_set_anew_from_the_former_references(asked, made):
    """With the former references every frame of the new bank is held out once, and the rule is a calibration's."""
    kept = run_extension(asked(), REGISTRY, quiet)["thresholds"]
    anew = run_extension(asked(references=made / "old"), REGISTRY, quiet)["thresholds"]
    assert kept["rule"].startswith("split-conformal, leave-one-out, kept from ")
    assert (kept["held_out"], anew["held_out"]) == (5, 8)
    assert anew["rule"] == "split-conformal, leave-one-out"
    assert anew["bound"] == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"product": "Part"}, ConfigError),
        ({"product": "lid"}, TemplateError),
        ({"detector": "nosuch"}, ConfigError),
        ({"template": "00ff"}, TemplateError),
        ({"who": ""}, ConfigError),
        ({"why": "a" * 2001}, ConfigError),
        ({"options": ExtensionOptions(device="tpu")}, ConfigError),
        ({"options": ExtensionOptions(held_out=0), "references": "nowhere"}, ConfigError),
        ({"frames": "nowhere"}, ConfigError),
    ],
)
def test_mistakes_are_found_before_the_long_part(asked, made, monkeypatch, changes, error):
    """An extension that cannot end well is refused before anything is scored."""
    monkeypatch.setattr(jobs.extension, "extend", lambda *_, **__: pytest.fail("the long part was reached"))
    changes = {key: made / each if each == "nowhere" else each for key, each in changes.items()}
    with pytest.raises(error):
        run_extension(asked(**changes), REGISTRY, quiet)
