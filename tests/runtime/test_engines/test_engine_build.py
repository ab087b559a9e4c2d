"""Building: what is there is not built again, what the gate refuses is not approved, a new bank builds nothing."""

import json
import os

import pytest

from runtime.engines.approvals import FOLDER, approval_name, read_approval, write_approval
from runtime.engines.cache import EngineCache
from runtime.engines.shapes import MAX_SHAPES, shapes_of
from runtime.engines.target import Target
from runtime.errors import EngineError
from runtime.store.template import GoldenFrame

KEY = "c" * 64


def test_an_engine_is_built_once(spot, shop):
    """The first build compiles and approves; the second finds it without exporting the program again."""
    template = shop.put(spot.content_of(2))
    (first,) = shop.build(template)
    assert (first.compiled, shop.backend.compiled, first.shape) == (True, 1, (32, 40, 3))
    assert first.parity["failed"] == []
    assert first.parity["frames"] == 2
    (second,) = shop.build(template)
    assert (second.compiled, second.key, shop.backend.compiled) == (False, first.key, 1)


def test_each_frame_shape_has_its_engine(spot, shop):
    """Golden frames of two shapes, grey and colour, give two engines."""
    template = shop.put(spot.content_of(2), shapes=[(32, 40, 3), (24, 24, 1), (32, 40, 3)])
    records = shop.build(template)
    assert [record.shape for record in records] == [(32, 40, 3), (24, 24, 1)]
    assert shop.backend.compiled == 2


def test_no_more_engines_than_are_kept(spot):
    """A folder of mixed sizes builds engines for its most frequent shapes only."""
    frames = [
        GoldenFrame(spot.image(0, (20 + n, 20, 1)), None, 0.0) for n in range(MAX_SHAPES + 3) for _ in range(n + 1)
    ]
    assert [height for height, _, _ in shapes_of(frames)] == [20 + n for n in range(MAX_SHAPES + 2, 2, -1)]


def test_a_new_bank_builds_nothing(spot, shop):
    """An extended template and one learnt anew have the same program: exported to see that, and not compiled."""
    shop.build(shop.put(spot.content_of(2)))
    for content in (spot.content_of(3), spot.content_of(2, seed=9), spot.content_of(spot.CAPACITY)):
        (record,) = shop.build(shop.put(content))
        assert not record.compiled
    assert shop.backend.compiled == 1


def test_another_setting_of_the_graph_is_another_engine(spot, shop):
    """A number that goes into the graph is part of the key; a text that does not is not."""
    for settings in ({}, {"gain": 2.0}, {"note": "x"}):
        shop.build(shop.put(spot.content_of(2, **settings)))
    assert shop.backend.compiled == 2


def test_the_gate_refuses_an_engine_that_answers_otherwise(spot, shop):
    """An engine whose maps differ is not approved, the sentence names the frames, and an earlier approval is gone."""
    template = shop.put(spot.content_of(2))
    shop.build(template)
    name = approval_name(spot.Spot(), template.digest, (32, 40, 3), shop.target)
    assert read_approval(shop.cache, name) is not None
    shop.backend.wrong = 0.5
    with pytest.raises(EngineError, match=r"parity gate refuses the inductor engine in fp32: golden frames 0, 1 of 2"):
        shop.build(template)
    assert read_approval(shop.cache, name) is None
    shop.backend.wrong = 0.0
    assert not shop.build(template)[0].compiled


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), lambda path: path.unlink()])
def test_a_damaged_engine_is_built_again(spot, shop, damage):
    """Building where the approved engine is damaged makes it anew."""
    template = shop.put(spot.content_of(2))
    (first,) = shop.build(template)
    damage(shop.cache.folder / first.key / "model.so")
    (second,) = shop.build(template)
    assert (second.compiled, second.key, shop.backend.compiled) == (True, first.key, 2)


def test_a_failed_compilation_leaves_nothing(spot, shop):
    """The backend's error passes; no entry, no approval, nothing unfinished is left."""
    shop.backend.error = EngineError("the compiler said no")
    with pytest.raises(EngineError, match="said no"):
        shop.build(shop.put(spot.content_of(2)))
    assert shop.cache.entries() == []
    assert sorted(path.name for path in shop.cache.folder.iterdir()) == ["locks"]


def test_a_full_disk_under_the_compiler_is_an_engine_error(spot, shop):
    """What the compiler meets while writing is told as the cache's trouble."""
    shop.backend.error = OSError(28, "No space left on device")
    with pytest.raises(EngineError, match=r"cannot build in .*No space left on device; free space"):
        shop.build(shop.put(spot.content_of(2)))


def test_without_golden_frames_nothing_is_built(spot, shop):
    """An engine that cannot prove itself is not built."""
    template = shop.put(spot.content_of(2), shapes=())
    with pytest.raises(EngineError, match="expected golden frames, found none"):
        shop.build(template)
    assert shop.backend.compiled == 0


def test_progress_is_told(spot, shop):
    """Exporting and compiling report what they are at, up to their end; finding reports nothing."""
    said = []
    template = shop.put(spot.content_of(2))
    shop.build(template, lambda *each: said.append(each))
    assert [(done == total, what) for done, total, what in said if what.startswith("compile")][-1][0]
    assert {what for _, _, what in said} == {"export spot 32 x 40 x 3 fp32", "compile spot 32 x 40 x 3 fp32"}
    said.clear()
    shop.build(template, lambda *each: said.append(each))
    assert said == []


def test_an_approval_belongs_to_one_of_everything(spot, target, monkeypatch):
    """Template, frame shape, target, detector version and its source text: another one of each is another approval."""
    detector = spot.Spot()
    names = {approval_name(detector, "a" * 64, (32, 40, 3), target)}
    names.add(approval_name(detector, "b" * 64, (32, 40, 3), target))
    names.add(approval_name(detector, "a" * 64, (32, 40, 1), target))
    names.add(approval_name(detector, "a" * 64, (32, 40, 3), Target("inductor", "fp32", "cpu", 2)))
    monkeypatch.setattr(spot.Spot, "version", "2")
    names.add(approval_name(detector, "a" * 64, (32, 40, 3), target))
    monkeypatch.setattr("runtime.engines.approvals.source_digest", lambda _detector: "edited")
    names.add(approval_name(detector, "a" * 64, (32, 40, 3), target))
    assert len(names) == 6


def test_editing_a_detector_withdraws_its_engines(spot, tmp_path, monkeypatch):
    """The source digest of a plugin module changes with its text, with or without a new version number."""
    import importlib.util
    import sys

    from runtime.engines.approvals import source_digest

    found = []
    for text in ("VALUE = 1\n", "VALUE = 2\n"):
        path = tmp_path / "edited.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("edited", path)
        monkeypatch.setitem(sys.modules, "edited", importlib.util.module_from_spec(spec))
        found.append(source_digest(type("Edited", (spot.Spot,), {"__module__": "edited"})()))
    assert found[0] != found[1]


def test_a_damaged_approval_counts_as_none(spot, shop):
    """An approval that cannot be read is none: the engine is looked up again, not built again."""
    template = shop.put(spot.content_of(2))
    shop.build(template)
    (path,) = (shop.cache.folder / FOLDER).iterdir()
    for text in (b"", b"{", b"[]", b'{"key": 1}', b"\xff"):
        path.write_bytes(text)
        assert read_approval(shop.cache, path.name) is None
        assert not shop.build(template)[0].compiled
    assert shop.backend.compiled == 1


def test_approvals_are_bounded(tmp_path, monkeypatch):
    """Only so many approvals are kept: the oldest go."""
    monkeypatch.setattr("runtime.engines.approvals.MOST", 3)
    cache = EngineCache(tmp_path / "engines", 1 << 20)
    (cache.folder / KEY).mkdir(parents=True)
    for number in range(6):
        write_approval(cache, str(number), {"key": KEY})
    assert len(list((cache.folder / FOLDER).iterdir())) == 3


def test_an_approval_goes_with_its_engine(spot, shop):
    """Approvals whose engine was evicted, and what killed writers left, go with the next; others and refusals stay."""
    shop.backend.wrong_together = 0.5
    one, several = shop.build(shop.put(spot.content_of(2)), batch=2)
    (other,) = shop.build(shop.put(spot.content_of(2, gain=2.0)))
    folder = shop.cache.folder / FOLDER
    young, old = folder / ".a.1", folder / ".b.2"
    for path in (young, old):
        path.write_text("{")
    os.utime(old, (1, 1))
    for key in (one.key, several.key):
        shop.cache.remove(key)
    (last,) = shop.build(shop.put(spot.content_of(2, gain=3.0)))
    left = [json.loads(path.read_bytes()) for path in folder.iterdir() if path != young]
    assert {record["key"] for record in left} == {other.key, last.key, several.key}
    assert [record["key"] for record in left if "refused" in record] == [several.key]
    assert young.exists()
    assert not old.exists()
