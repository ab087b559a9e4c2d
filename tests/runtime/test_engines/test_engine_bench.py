"""`edgead bench detector`: engines take turns, every figure is there, and what was not built is not measured."""

import numpy as np
import pytest

from runtime.engines import first_result
from runtime.engines.bench import _Case, bench_detector
from runtime.engines.timing import WARM_UP, take_turns
from runtime.errors import EngineError
from runtime.registry import load_plugins
from runtime.station.config import load_station
from runtime.testing.station import write_station

CAMERAS = {"top": {"product": "part", "detector": "spot"}}
PLUGINS = ("spot",)
FIGURES = {
    "engine", "p50_ms", "p99_ms", "ratio", "frames_per_s", "batch_frames_per_s", "batch_ratio", "beside_p50_ms",
    "beside_p99_ms",
    "first_warm_s", "first_cold_s", "rss_mb", "gflop", "mbytes", "floor_ms", "roofline", "score_difference",
    "map_difference",
}  # fmt: skip


def station(folder, store, cache, **worker):
    """Return a station for a store and a cache."""
    settings = {"threads": 1, "engines": str(cache.folder)} | worker
    return load_station(write_station(folder, CAMERAS, store=str(store.root), worker=settings))


class Counting:
    """An engine that notes when it was asked, and for what."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def infer(self, frame):
        """Note the call."""
        self.calls.append((self.name, int(frame[0, 0])))


def test_engines_take_turns():
    """Every engine answers the same frame before the next frame comes; the warm-up is not counted."""
    calls = []
    frames = [np.full((2, 2), number, np.uint8) for number in range(3)]
    times = take_turns({"a": Counting("a", calls), "b": Counting("b", calls)}, frames, 5)
    assert [name for name, _ in calls] == ["a", "b"] * (5 + WARM_UP)
    assert all(one[1] == other[1] for one, other in zip(calls[::2], calls[1::2], strict=True))
    assert [len(values) for values in times.values()] == [5, 5]
    assert all(values == sorted(values) for values in times.values())


def test_only_approved_engines_are_measured(shop, spot, tmp_path):
    """Eager always is; an engine is when it was built and approved for the template."""
    template = shop.put(spot.content_of(2))
    case = _Case(station(tmp_path, shop.store, shop.cache), PLUGINS, spot.Spot(), template, "cpu", 1)
    assert [name for name, _ in case._variants()] == ["eager fp32"]
    shop.build(template)
    assert [name for name, _ in case._variants()] == ["eager fp32", "inductor fp32"]


@pytest.mark.usefixtures("importable")
def test_the_reference_alone(shop, spot, tmp_path):
    """Without engines the table has the reference, compared with itself, started in a process of its own."""
    shop.put(spot.content_of(2))
    said = []
    loaded = station(tmp_path, shop.store, shop.cache)
    figures = bench_detector(loaded, load_plugins(PLUGINS), PLUGINS, lambda *each: said.append(each), rounds=10)
    (row,) = figures["engines"]
    assert row.keys() == FIGURES
    assert (row["engine"], row["ratio"], row["map_difference"]) == ("spot eager fp32", 1, 0)
    assert (row["batch_frames_per_s"], row["batch_ratio"]) == (None, None)
    assert row["p50_ms"] <= row["p99_ms"]
    assert row["first_cold_s"] == row["first_warm_s"] > 0.1  # nothing to compile
    assert row["rss_mb"] > 50
    assert row["roofline"] == pytest.approx(row["floor_ms"] / row["p50_ms"], abs=1e-3)
    assert figures["machine"].keys() >= {"cpu", "cores", "load_1min"}
    assert figures["machine"]["ceilings"]["cpu"].keys() == {"fp32_gflops", "bf16_gflops", "int8_gflops", "memory_gb_s"}
    assert said[-1][0] == said[-1][1]


def test_a_batch_has_a_program_of_its_own(shop, spot, tmp_path):
    """Throughput with several frames at once is of the eager graph and of a program built for so many, not approved."""
    template = shop.put(spot.content_of(2))
    shop.build(template)
    case = _Case(station(tmp_path, shop.store, shop.cache), PLUGINS, spot.Spot(), template, "cpu", 3)
    made = {name: case._chosen(wish) for name, wish in case._variants()}
    found = case._batched(made, template.golden(), lambda *_: None)
    assert found.keys() == made.keys() == {"eager fp32", "inductor fp32"}
    assert all(each["batch_frames_per_s"] > 0 for each in found.values())
    assert all(each["batch_ratio"] > 0 for each in found.values())
    assert shop.backend.compiled == 2
    assert len(list((shop.cache.folder / "approved").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("importable")
def test_a_compiled_engine_beside_the_reference(built, tmp_path):
    """A really compiled engine has its row: compile time as it was, a fresh process, parity."""
    store, _, cache, _ = built
    loaded = station(tmp_path, store, cache, threads=2, backend="inductor")
    figures = bench_detector(loaded, load_plugins(PLUGINS), PLUGINS, lambda *_: None, rounds=10)
    assert [row["engine"] for row in figures["engines"]] == ["spot eager fp32", "spot inductor fp32"]
    assert figures["engines"][1]["first_cold_s"] > figures["engines"][1]["first_warm_s"] + 1
    assert 0 < figures["engines"][1]["map_difference"] < 1e-4


def test_a_worker_that_never_answers_is_given_up(monkeypatch):
    """A fresh worker that fills its error output and hangs is ended after the time it has, and its words are told."""
    monkeypatch.setattr(first_result, "_FRESH", "import sys, time\nsys.stderr.write('no' * 10**6)\ntime.sleep(60)")
    monkeypatch.setattr(first_result, "_TIMEOUT_S", 1.0)
    with pytest.raises(EngineError, match="a fresh worker failed within 1 s: no"):
        first_result.first_result({})
