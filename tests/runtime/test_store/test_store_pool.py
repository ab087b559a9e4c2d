"""The pool of a template: kept, proven and carried like its other objects, and read by nothing on the line."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest

from runtime.detector import DetectorContext
from runtime.disk import canonical
from runtime.errors import TemplateError
from runtime.store import Store
from runtime.store.integrity import Problem
from runtime.store.manifest import DetectorIdentity, Thresholds, decode_manifest, encode_manifest
from runtime.testing.nothing import Nothing
from runtime.worker.process import load


def missing(store, template):
    """Take the pool's object away and return its path, relative to the store."""
    path = store._objects.path(template.manifest.pool.object)
    path.unlink()
    return str(path.relative_to(store.root))


def test_pool_comes_back_as_it_was_put(store, sample):
    """The pool's arrays are read when asked for, and are not part of what a station reads."""
    given = sample.content(60)["pool"]["all"]
    sample.put(store, 60)
    (found,) = Store(store.root).templates()
    assert np.array_equal(found.pool()["all"], given)
    assert np.array_equal(found.content(pool=True).pool["all"], given)
    assert found.content().pool == {}
    assert found.content().tensors.keys() == found.content(pool=True).tensors.keys()


def test_template_without_a_pool_has_none(store, sample):
    """A detector without a pool stores two objects and a manifest that does not mention one."""
    template = sample.put(store, 1)
    assert template.manifest.pool is None
    assert template.pool() == template.content(pool=True).pool == {}
    assert "pool" not in json.loads(store._objects.read(template.digest))
    assert len(list(store._objects)) == 3


def test_template_from_before_pools_keeps_its_id(store, sample):
    """A manifest written without the key opens, under the digest of its bytes, and encodes to those bytes again."""
    template = sample.put(store, 1)
    fields = template.manifest.model_dump(mode="json")
    del fields["pool"]
    old = canonical.encode(fields)  # as it was spelt when no manifest had the field
    assert old == store._objects.read(template.digest)
    assert encode_manifest(decode_manifest(old, "old")) == old


def test_other_pool_is_another_template(store, sample):
    """Equal banks with different pools are different templates that share the bank."""
    given = sample.content(60)
    first = store.put_template(**given, who="test")
    second = store.put_template(**given | {"pool": {"all": given["pool"]["all"] + 1}}, who="test")
    assert first.digest != second.digest
    assert first.manifest.bank == second.manifest.bank


def test_pool_equal_to_the_bank_is_one_object(store, sample, tmp_path):
    """A pool that holds the bank's arrays shares its object, is proven as both, and survives export and import."""
    given = sample.content(60)
    template = store.put_template(**given | {"pool": given["bank"]}, who="test")
    assert template.manifest.pool.object == template.manifest.bank.object
    assert store.verify() == []
    other = Store.create(tmp_path / "other")
    assert other.import_(store.export(template.digest, tmp_path / "t.tar"), who="test").digest == template.digest


def test_unlawful_pool_is_not_stored(store, sample):
    """Numbers that are not finite, and dtypes a template cannot hold, are refused in the pool too."""
    given = sample.content(60)
    for wrong, message in ((np.array([np.nan], np.float32), "found nan"), (np.zeros(2), "found float64")):
        with pytest.raises(TemplateError, match=message):
            store.put_template(**given | {"pool": {"all": wrong}}, who="test")
    assert store.listed() == []


def test_pool_laid_out_otherwise_is_refused(store, sample):
    """A manifest that describes another pool than its object holds is not stored."""
    manifest = sample.put(store, 60).manifest
    shape = manifest.pool.tensors["all"].model_copy(update={"shape": (4, 9)})
    lying = manifest.model_copy(update={"pool": manifest.pool.model_copy(update={"tensors": {"all": shape}})})
    with pytest.raises(TemplateError, match="expected the manifest's pool"):
        store.put_manifest(lying, who="test")


def test_other_thresholds_keep_the_pool(store, sample):
    """A changed threshold is another template with the same pool object."""
    old = sample.put(store, 60)
    cuts = Thresholds(image=9.0, pixel=None, rule="manual", target=None, bound=None, held_out=0)
    new = store.put_manifest(old.manifest.model_copy(update={"thresholds": cuts}), who="test")
    assert new.manifest.pool == old.manifest.pool
    assert new.digest != old.digest


def test_pool_travels_with_an_export(store, sample, tmp_path):
    """An exported template has four members, comes back with its pool, and exports to the same bytes again."""
    template = sample.put(store, 60)
    file = store.export(template.digest, tmp_path / "a.tar")
    with tarfile.open(file, "r:") as tar:
        manifest = template.manifest
        names = [f"template/{template.digest}"]
        names += [f"objects/{each.object}" for each in (manifest.bank, manifest.golden, manifest.pool)]
        assert tar.getnames() == names
    other = Store.create(tmp_path / "other")
    imported = other.import_(file, who="test")
    assert np.array_equal(imported.pool()["all"], template.pool()["all"])
    assert other.export(template.digest, tmp_path / "b.tar").read_bytes() == file.read_bytes()
    data = bytearray(file.read_bytes())
    for at in range(0, len(data), 61):
        data[at] ^= 0x10
        file.write_bytes(data)
        with pytest.raises(TemplateError):
            Store.create(tmp_path / "third").import_(file, who="test")
        data[at] ^= 0x10


def test_archive_without_its_pool_is_refused(store, sample, tmp_path):
    """A member missing is no template without a pool: the manifest says there is one."""
    file = store.export(sample.put(store, 60).digest, tmp_path / "a.tar")
    with tarfile.open(file, "r:") as tar:
        infos = tar.getmembers()
    file.write_bytes(file.read_bytes()[: infos[3].offset] + bytes(2 * tarfile.BLOCKSIZE))
    with pytest.raises(TemplateError, match="expected member objects/"):
        Store.create(tmp_path / "other").import_(file, who="test")


def test_worker_never_reads_the_pool(store, tmp_path):
    """With the pool's object gone a worker loads as before; verify names what is missing, for the templates it hits."""
    content = Nothing().calibrate([], Nothing.settings_model(), DetectorContext())
    template = store.put_template(
        product="cap", detector=DetectorIdentity(name="nothing", version="1", distribution="edgead"), settings={},
        bank=content.tensors, capacity=1, valid=1, map_shape=content.map_shape, golden=(), who="test",
        thresholds=Thresholds(image=1.0, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
        pool={"all": np.zeros((9, 4), np.float32)},
    )  # fmt: skip
    store.activate(template.digest, who="test")
    gone = missing(store, template)
    setup = {"builtins": ("runtime.testing.nothing",), "detector": "nothing", "store": str(store.root)}
    eager = {"backend": "eager", "precision": "fp32", "folder": str(tmp_path), "most_mb": 1, "batch": 1}
    chosen = load(
        setup
        | {
            "template": template.digest,
            "device": "cpu",
            "threads": 1,
            "engine": eager,
            "priority": "normal",
            "shared": False,
        }
    )
    assert chosen.engine.infer(np.zeros((8, 8), np.uint8)).score == 0
    assert chosen.proof.kept is None
    (problem,) = store.verify()
    assert isinstance(problem, Problem)
    assert (problem.path, problem.templates) == (gone, (template.digest,))
    assert "expected an object, found none" in problem.what
    assert store.verify(template.digest) == [problem]
    assert store.verify(template.digest, pool=False) == store.verify(pool=False) == []
    with pytest.raises(TemplateError, match="expected an object, found none"):
        template.content(pool=True)
