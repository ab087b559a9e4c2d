"""The store by command line: what one command says the next one takes."""

import os

import pytest

PRODUCT = "part"


@pytest.fixture
def store(dataset, tmp_path, quick, run):
    """Return (store, first id, second id): two templates, the second active after the first."""
    folder = tmp_path / "store"
    common = ("calibrate", dataset, "--product", PRODUCT, "--store", folder, *quick, "--activate", "--json")
    first = run(*common, "--who", "ann", "--why", "first").last["template"]
    second = run(*common, "--set", "blur_sigma=2.0").last["template"]
    assert first != second
    return folder, first, second


def test_list_and_show(store, run):
    """`templates list` marks the active template; `templates show` tells its settings, thresholds and history."""
    folder, first, second = store
    listed = run("templates", "list", "--store", folder, "--json").last
    keys = {"template", "product", "detector", "active", "references", "image_threshold", "held_out", "error"}
    assert all(each.keys() == keys for each in listed)
    assert {each["template"]: each["active"] for each in listed} == {first: False, second: True}
    shown = run("templates", "show", first[:8], "--store", folder, "--json").last
    assert shown["template"] == first
    assert shown["settings"]["image_size"] == 64
    assert any("ann: activate first" in line for line in shown["history"])
    assert run("templates", "list", "--store", folder, "--product", "other", "--json").last == []


def test_activate_and_rollback(store, run):
    """`templates activate` makes another template the active one, and `rollback` goes back."""
    folder, first, second = store
    assert run("templates", "activate", first[:8], "--store", folder, "--json").last["new"] == first
    back = run("templates", "rollback", PRODUCT, "--store", folder, "--json").last
    assert back["new"] == second
    listed = run("templates", "list", "--store", folder, "--json").last
    assert [each["template"] for each in listed if each["active"]] == [second]


def test_export_and_import(store, tmp_path, run):
    """A template written by `export` is the same template where `import` takes it in, and is not active there."""
    folder, first, _ = store
    assert run("templates", "export", first[:8], tmp_path / "one.eadt", "--store", folder).code == 0
    other = tmp_path / "other"
    assert run("templates", "import", tmp_path / "one.eadt", "--store", other, "--json").last["template"] == first
    (listed,) = run("templates", "list", "--store", other, "--json").last
    assert (listed["template"], listed["active"]) == (first, False)


def test_verify_names_damage(store, run):
    """`templates verify` ends with 0 on a whole store and with 4, naming the file, after one byte changed."""
    folder, *_ = store
    assert run("templates", "verify", "--store", folder, "--json").last == []
    largest = max((folder / "objects").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.chmod(0o644)
    largest.write_bytes(content)
    done = run("templates", "verify", "--store", folder, "--json")
    assert done.code == 4
    assert any(str(largest).endswith(each["path"]) or each["path"] in str(largest) for each in done.last)
    assert run("templates", "verify", "--store", folder).code == 4
    (template,) = {template for each in done.last for template in each["templates"]}
    assert run("templates", "activate", template, "--store", folder).code == 4


def test_a_damaged_manifest_does_not_hide_the_others(store, run):
    """A template whose manifest is damaged is listed with its error, beside those that are whole."""
    folder, first, second = store
    manifest = next(path for path in (folder / "objects").rglob("*") if first[2:] in path.name or first in path.name)
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:-10])
    done = run("templates", "list", "--store", folder)
    assert done.code == 0
    assert first[:12] in done.out
    assert second[:12] in done.out
    assert f"{first[:12]}: " in done.err


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_is_logged_by_number(store, run, monkeypatch, error):
    """Where the system has no name for the user, as in many containers, the ref log says the uid."""
    folder, first, _ = store

    def nameless():
        raise error("no name for this uid")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert run("templates", "activate", first, "--store", folder, "--json").code == 0
    history = run("templates", "show", first, "--store", folder, "--json").last["history"]
    assert any(f"uid {os.getuid()}: activate" in line for line in history)
