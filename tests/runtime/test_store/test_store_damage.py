"""A damaged store: every damage is found and named, nothing damaged is activated, what ran goes on running."""

from __future__ import annotations

import re

import numpy as np
import pytest

from runtime.errors import TemplateError
from runtime.store import Store, integrity
from runtime.store.integrity import Problem


def flip(path, at):
    """Flip the lowest bit of one byte, read-only files too."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def object_of(store, digest, kind):
    """Return the path of a template's manifest, bank or golden frames."""
    manifest = store.template(digest).manifest
    pool = manifest.pool and manifest.pool.object
    named = {"manifest": digest, "bank": manifest.bank.object, "golden": manifest.golden.object, "pool": pool}[kind]
    return store._objects.path(named)


@pytest.mark.parametrize("kind", ["manifest", "bank", "golden", "pool"])
@pytest.mark.parametrize(
    "damage", ["first byte", "middle byte", "last byte", "cut", "longer", "empty", "missing", "link"]
)
def test_damaged_object_is_found_and_not_activated(store, abc, sample, kind, damage):
    """Whatever happened to an object, verify names it and the template it hits, and what ran stays."""
    hit = sample.put(store, 60).digest
    path = object_of(store, hit, kind)
    size = path.stat().st_size
    path.chmod(0o644)
    if damage.endswith("byte"):
        flip(path, {"first": 0, "middle": size // 2, "last": size - 1}[damage.split()[0]])
    elif damage == "link":
        path.rename(path.with_suffix(".moved"))
        path.symlink_to(path.with_suffix(".moved"))
    elif damage == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-1], "longer": data + b"\0", "empty": b""}[damage])

    problem = next(each for each in store.verify() if each.path == str(path.relative_to(store.root)))
    assert problem.templates == (hit,)
    assert store.verify(hit) == [problem]
    assert store.verify(hit, pool=False) == ([] if kind == "pool" else [problem])
    assert store.verify(abc[0]) == []
    with pytest.raises(TemplateError, match=re.escape(str(path.name))):
        store.activate(hit, who="test")
    assert store.active("cap", "hetmm").digest == abc[0]
    assert [entry.action for entry, _ in store.log("cap", "hetmm")] == ["create"] * 3 + ["activate", "create"]


def test_shared_object_names_every_template_it_hits(store, abc):
    """An object that two templates share is one problem with both ids."""
    old = store.template(abc[1])
    twin = store.put_manifest(old.manifest.model_copy(update={"parent": old.digest}), who="test")
    path = object_of(store, abc[1], "bank")
    flip(path, 200)
    (problem,) = store.verify()
    assert set(problem.templates) == {abc[1], twin.digest}
    assert str(problem).startswith(f"objects/{path.parent.name}/{path.name}: expected sha256")
    assert all(digest[:12] in str(problem) for digest in problem.templates)


def test_damaged_bank_is_not_handed_out(store, abc):
    """A worker that asks for a damaged bank gets an error that says how to get a sound one, never wrong numbers."""
    template = store.active("cap", "hetmm")
    flip(object_of(store, abc[0], "bank"), 250)
    with pytest.raises(TemplateError, match="damaged; import the template from an export, or calibrate again"):
        template.bank()


def test_putting_the_same_template_again_heals_it(store, abc, sample):
    """Calibrating or importing the same content replaces damaged objects."""
    for path in [object_of(store, abc[1], kind) for kind in ("manifest", "bank", "golden")]:
        flip(path, 99)
    assert len(store.verify()) == 3
    sample.put(store, 1)
    assert store.verify() == []


def test_rollback_to_a_damaged_template_is_refused(store, abc):
    """Rollback proves what it goes back to; the present one stays."""
    store.activate(abc[1], who="test")
    flip(object_of(store, abc[0], "golden"), 300)
    with pytest.raises(TemplateError, match="cannot rollback"):
        store.rollback("cap", "hetmm", who="test")
    assert store.active("cap", "hetmm").digest == abc[1]


def test_every_flipped_bit_of_refs_and_logs_is_found(store, abc):
    """Each byte of every ref, log and the format file is guarded."""
    store.activate(abc[1], who="ann", why="new lamp")
    small = [path for folder in ("refs", "log") for path in (store.root / folder).rglob("*") if path.is_file()]
    assert len(small) == 5
    for path in [*small, store.root / "format"]:
        name = str(path.relative_to(store.root))
        size = path.stat().st_size
        for at in {*range(0, size, 7), size - 2, size - 1}:
            flip(path, at)
            assert name in {each.path for each in store.verify()}, (name, at)
            flip(path, at)
    assert store.verify() == []


def test_damaged_active_ref_stops_and_is_healed_by_activation(store, abc):
    """A damaged active ref is an error, not another template; activation repairs it, and rollback knows the way."""
    store.activate(abc[1], who="test")
    path = store.root / "refs/active/cap/hetmm"
    for damage in (b"", path.read_bytes()[:-1], b"f" * 64 + b"\n"):
        path.write_bytes(damage)
        assert any(each.path == "refs/active/cap/hetmm" for each in store.verify())
        with pytest.raises(TemplateError):
            store.active("cap", "hetmm")
    assert store.activate(abc[2], who="test").old == abc[1]
    assert store.rollback("cap", "hetmm", who="test").new == abc[1]
    path.write_bytes(b"junk")
    assert store.activate(abc[1], who="test").changed
    assert store.active("cap", "hetmm").digest == abc[1]
    assert store.rollback("cap", "hetmm", who="test").new == abc[0]
    assert store.verify() == []


def test_damaged_log_refuses_to_move_and_says_what_to_do(store, abc):
    """Nothing is appended to a damaged log; moved aside, a new one begins and the old state is known to it."""
    path = store.root / "log/cap/hetmm.jsonl"
    flip(path, 30)
    for move in (
        lambda: store.activate(abc[1], who="test"),
        lambda: store.rollback("cap", "hetmm", who="test"),
        lambda: store.log("cap", "hetmm"),
    ):
        with pytest.raises(TemplateError, match=r"line 1.*move the file aside"):
            move()
    assert store.active("cap", "hetmm").digest == abc[0]
    path.rename(store.root.parent / "hetmm.jsonl.damaged")
    store.activate(abc[1], who="test")
    assert store.rollback("cap", "hetmm", who="test").new == abc[0]


@pytest.mark.usefixtures("abc")
def test_lost_log_line_is_found(store):
    """A line taken out of the middle breaks the chain of checks."""
    path = store.root / "log/cap/hetmm.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    (problem,) = store.verify()
    assert problem.path == "log/cap/hetmm.jsonl"
    assert "line 2: expected to follow check" in problem.what


def test_torn_last_log_line_is_tolerated_and_repaired(store, abc):
    """Every prefix of the newest entry, as a crash leaves it, is ignored, reported, and gone after the next write."""
    path = store.root / "log/cap/hetmm.jsonl"
    whole = path.read_bytes()
    newest = whole.splitlines(keepends=True)[-1]
    for cut in (1, 2, 40, len(newest) - 1):
        path.write_bytes(whole + newest[:cut])
        assert [each.what.split(",")[0] for each in store.verify()] == ["torn last line"]
        assert len(store.log("cap", "hetmm")) == 4
    store.activate(abc[1], who="test")
    assert len(store.log("cap", "hetmm")) == 5
    assert store.verify() == []


def test_move_that_a_crash_cut_short_is_seen_as_such(store, abc):
    """A logged move whose ref never moved is marked, and rollback does not walk through it."""
    store.activate(abc[1], who="test")
    (store.root / "refs/active/cap/hetmm").write_text(f"{abc[0]}\n")
    assert [took_effect for _, took_effect in store.log("cap", "hetmm")] == [True] * 4 + [False]
    assert store.verify() == []
    with pytest.raises(TemplateError, match="found none"):
        store.rollback("cap", "hetmm", who="test")
    store.activate(abc[2], who="test")
    assert [took_effect for _, took_effect in store.log("cap", "hetmm")] == [True] * 4 + [False, True]
    assert store.rollback("cap", "hetmm", who="test").new == abc[0]


@pytest.mark.usefixtures("abc")
def test_files_that_belong_nowhere_are_named(store):
    """Strangers among the objects and refs are reported, and do not disturb the rest."""
    (store.root / "objects/zz").mkdir()
    (store.root / "objects/zz/notes.txt").write_text("x")
    (store.root / "refs/templates/cap/README").write_text("x")
    (store.root / "refs/active/cap/Thumbs.db").write_text("x")
    assert {each.path for each in store.verify()} == {
        "objects/zz/notes.txt",
        "refs/templates/cap/README",
        "refs/active/cap/Thumbs.db",
    }
    assert len(Store(store.root).listed()) == 3


def test_template_under_another_product_is_found(store, abc):
    """A listing that was copied to another product is reported with the template's id."""
    (store.root / "refs/templates/lid").mkdir()
    (store.root / "refs/templates/lid" / abc[0]).write_text(f"{abc[0]}\n")
    what = "expected a template of product 'lid', found one of 'cap'"
    assert store.verify() == [Problem(f"refs/templates/lid/{abc[0]}", what, (abc[0],))]


@pytest.mark.parametrize(("product", "detector"), [("cap", "other"), ("lid", "hetmm")])
def test_active_ref_to_a_template_of_another_is_refused_and_found(store, abc, sample, product, detector):
    """An active ref copied to another detector or product runs nothing: `active` and `verify` name both."""
    sample.put(store, 7, product, detector)
    ref = store.root / "refs/active" / product / detector
    ref.parent.mkdir(exist_ok=True)
    ref.write_text(f"{abc[0]}\n")
    (store.root / "refs/templates" / product / abc[0]).write_text(f"{abc[0]}\n")
    what = (
        f"expected a template of {product!r} for detector {detector!r}, found one of 'cap' for detector 'hetmm'; "
        "choose one with 'edgead templates activate'"
    )
    assert Problem(f"refs/active/{product}/{detector}", what, (abc[0],)) in store.verify()
    with pytest.raises(TemplateError) as raised:
        store.active(product, detector)
    assert str(raised.value) == f"{ref}: {what}"


def test_object_too_large_to_read_again_is_not_written(store, sample, monkeypatch):
    """A bank that reading would refuse is refused before anything is written, with its size and what to do."""
    monkeypatch.setattr("runtime.store.objects.MAX_OBJECT_BYTES", 100)
    with pytest.raises(TemplateError, match=r"at most 100 bytes, found \d{3,} .*fewer references or a smaller image"):
        sample.put(store, 1)
    assert not [path for path in (store.root / "objects").rglob("*") if path.is_file()]
    assert store.listed() == []


def test_unlawful_template_with_a_right_digest_is_not_activated(store, sample, monkeypatch):
    """A template whose bytes are what their digests say, but whose bank holds NaN, is refused all the same."""
    given = sample.content(1)
    given["bank"]["embeddings"][2, 3] = np.nan
    with monkeypatch.context() as lawless:
        lawless.setattr(integrity, "check_bank", lambda *_: None)
        digest = store.put_template(**given, who="test").digest
    (problem,) = store.verify()
    assert problem.what == "expected finite numbers, found nan in 'embeddings' at [2, 3]; calibrate again"
    with pytest.raises(TemplateError, match="found nan"):
        store.activate(digest, who="test")
