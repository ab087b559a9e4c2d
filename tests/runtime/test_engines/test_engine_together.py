"""Engines for several frames: built beside the others, approved apart, and never in the way of one frame at a time."""

import pytest
import torch

from runtime.engines import choice
from runtime.engines.ahead import build_station, is_ready, settings_of
from runtime.engines.company import bring_together
from runtime.engines.program import Batches
from runtime.errors import EngineError
from runtime.registry import load_plugins
from runtime.station.config import load_station
from runtime.testing.station import write_station

SHAPE = (32, 40, 3)


@pytest.fixture(autouse=True)
def _pays(monkeypatch):
    """Have several frames at once pay, which the clock would decide."""

    def together(engine, programs, size, golden):
        del golden
        engine.use_batches(Batches(size, 2, programs))
        return ""

    monkeypatch.setattr(choice, "bring_together", together)


def test_one_for_several_frames_is_built_beside(spot, shop):
    """A batch has an engine and an approval of its own, found again without exporting; the other stays."""
    template = shop.put(spot.content_of(2))
    one, several = shop.build(template, batch=3)
    assert (one.batch, several.batch, shop.backend.compiled) == (1, 3, 2)
    assert one.key != several.key
    assert several.parity["frames"] == 2
    assert several.note == ""
    said = []
    again = shop.build(template, lambda *each: said.append(each), batch=3)
    assert [record.compiled for record in again] == [False, False]
    assert said == []
    assert not shop.build(template)[0].compiled


def test_a_worker_uses_it(spot, shop):
    """The chosen engine answers several frames by the program for so many, as it answers each alone."""
    template = shop.put(spot.content_of(2))
    shop.build(template, batch=3)
    chosen = shop.choose(template, "inductor", batch=3)
    assert (chosen.engine.batch, chosen.apart, chosen.engine.detector.graphs) == (3, "", 0)
    images = [spot.image(seed) for seed in range(3)]
    for found, image in zip(chosen.engine.infer_many(images), images, strict=True):
        assert found.score == pytest.approx(chosen.engine.infer(image).score, rel=1e-5)
    assert shop.choose(template, "inductor").engine.batch == 1


def test_a_new_bank_builds_none(spot, shop):
    """Another version of a template finds the engines for one and for several frames, built or chosen."""
    shop.build(shop.put(spot.content_of(2)), batch=3)
    assert [record.compiled for record in shop.build(shop.put(spot.content_of(3)), batch=3)] == [False, False]
    fresh = shop.put(spot.content_of(4))
    assert shop.choose(fresh, "inductor", batch=3).engine.batch == 3  # nobody has approved anything for it yet
    assert shop.backend.compiled == 2
    assert shop.choose(fresh, "inductor", batch=3).engine.detector.graphs == 0  # now somebody has


def test_what_the_gate_refuses_costs_one_by_one(spot, shop):
    """Where several at once answer otherwise, that is noted, remembered, and one frame at a time runs on."""
    template = shop.put(spot.content_of(2))
    shop.backend.wrong_together = 0.5
    one, several = shop.build(template, batch=3)
    assert one.note == ""
    assert several.note.startswith(f"frames go one by one: template {template.digest[:12]}: the parity gate refuses")
    assert "for 3 frames at once: golden frames 0, 1 of 2 failed" in several.note
    chosen = shop.choose(template, "inductor", batch=3)
    assert (chosen.engine.batch, chosen.backend) == (1, "inductor")
    assert chosen.as_json()["note"] == several.note
    shop.backend.wrong_together = 0.0
    assert "refuses" in shop.choose(template, "inductor", batch=3).apart  # until somebody builds again
    assert shop.build(template, batch=3)[1].note == ""
    assert shop.choose(template, "inductor", batch=3).engine.batch == 3


def test_what_a_worker_finds_wrong_is_refused_from_then_on(spot, shop):
    """A template whose engines nobody has asked yet: what its golden frames say at the start is written down."""
    shop.build(shop.put(spot.content_of(2)), batch=3)
    shop.backend.wrong_together = 0.5
    fresh = shop.put(spot.content_of(3))
    for _ in range(2):
        chosen = shop.choose(fresh, "inductor", batch=3)
        assert (chosen.engine.batch, "3 frames at once: golden frames 0, 1 of 2 failed" in chosen.apart) == (1, True)
    assert chosen.engine.detector.graphs == 0  # the second time nothing was exported


def test_a_compiler_that_fails_on_several_frames_is_noted(spot, shop):
    """An engine for one frame is built and used although the one for several cannot be."""
    template = shop.put(spot.content_of(2))
    shop.build(template)
    shop.backend.error = EngineError("too large for this compiler")
    one, several = shop.build(template, batch=3)
    assert (one.note, several.note) == ("", "frames go one by one: too large for this compiler")
    assert several.as_json()["key"] == ""
    chosen = shop.choose(template, "inductor", batch=3)
    assert chosen.engine.batch == 1
    assert "for 3 frames at once, of 32 x 40 x 3" in chosen.apart


def test_the_eager_graph_takes_several_frames(spot, shop):
    """Without compiled engines the graph itself is asked for several, after the same proof."""
    template = shop.put(spot.content_of(2), shapes=[SHAPE, (24, 24, 1)])
    chosen = shop.choose(template, "eager", batch=4)
    assert (chosen.backend, chosen.engine.batch) == ("eager", 4)
    images = [spot.image(0), spot.image(1, (24, 24, 1)), spot.image(2), spot.image(3, (24, 24, 1))]
    for found, image in zip(chosen.engine.infer_many(images), images, strict=True):
        assert found.score == pytest.approx(chosen.engine.infer(image).score, rel=1e-5)
    bare = shop.choose(shop.put(spot.content_of(2), shapes=()), "eager", batch=4)
    assert (bare.engine.batch, "expected golden frames" in bare.apart) == (1, True)


def test_what_does_not_pay_is_said(spot, shop, monkeypatch):
    """Where several at once take as long as one by one, the status has both times."""
    monkeypatch.setattr(choice, "bring_together", bring_together)
    monkeypatch.setattr("runtime.engines.company._least_ms", lambda *_calls: [10.0, 40.0])
    chosen = shop.choose(shop.put(spot.content_of(2)), "eager", batch=4)
    assert chosen.as_json()["note"] == "frames go one by one: 4 frames at once take 40 ms, one takes 10 ms"


@pytest.mark.usefixtures("importable")
def test_a_station_that_wants_batches_is_ready_with_them(spot, shop, tmp_path):
    """A station is ready once both engines are approved and whole; a refused one is not asked for again."""
    template = shop.put(spot.content_of(2))
    worker = {"threads": 1, "engines": str(shop.cache.folder), "backend": "inductor", "batch": 3}
    cameras = {"top": {"product": "part", "detector": "spot", "worker": "shared"}}
    loaded = load_station(write_station(tmp_path, cameras, store=str(shop.store.root), worker=worker))
    registry = load_plugins(("spot",))
    shop.build(template)
    assert not is_ready(loaded, registry)
    _, several = build_station(loaded, registry, lambda *_: None)
    assert is_ready(loaded, registry)
    (shop.cache.folder / several.key / "model.so").write_bytes(b"")
    assert not is_ready(loaded, registry)
    shop.backend.wrong_together = 0.5
    assert build_station(loaded, registry, lambda *_: None)[1].note
    assert is_ready(loaded, registry)
    assert settings_of(loaded).batch == 3
    cameras["top"]["worker"] = "own"  # nobody's frames would ever go beside its own
    assert settings_of(load_station(write_station(tmp_path, cameras, store="store", worker=worker))).batch == 1


class Lonely(torch.nn.Module):
    """A graph that somebody wrote for one frame."""

    def __init__(self, graph):
        super().__init__()
        self.one = graph

    def forward(self, frames, rows):
        """Answer one frame; ``ValueError`` for several."""
        if len(frames) != 1:
            raise ValueError(f"expected one frame, found {len(frames)}")
        return self.one(frames, rows)


@pytest.mark.parametrize(
    ("backend", "words"),
    [("eager", "failed: ValueError: expected one frame, found 3"), ("inductor", "of 32 x 40 x 3, found Unsupported")],
)
def test_a_graph_for_one_frame_only(spot, shop, monkeypatch, backend, words):
    """A detector that cannot take several frames, whatever it raises, runs one by one, and both steps say why."""
    graph = spot.Spot.graph
    monkeypatch.setattr(spot.Spot, "graph", lambda *each: Lonely(graph(*each)))
    template = shop.put(spot.content_of(2))
    one, several = shop.build(template, batch=3)
    assert one.note == ""
    assert "3 frames at once of 32 x 40 x 3" in several.note
    chosen = shop.choose(template, backend, batch=3)
    assert (chosen.backend, chosen.engine.batch) == (backend, 1)
    assert chosen.apart.startswith("frames go one by one: ")
    assert "3 frames at once" in chosen.apart
    assert words in chosen.apart
