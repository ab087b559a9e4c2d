"""`edgead build --precision auto`: the gate refuses, the metrics refuse, and of the rest the fastest wins."""

from dataclasses import replace

import pytest

from calibration.fastest import fastest_precision
from calibration.margin import Figures
from runtime.engines.settings import EngineSettings
from runtime.errors import EngineError
from runtime.registry import load_plugins
from runtime.station.config import load_station
from runtime.testing.station import write_station

CAMERAS = {"top": {"product": "part", "detector": "spot"}}
PLUGINS = ("spot",)


@pytest.fixture
def ask(tmp_path, shop, spot, importable, monkeypatch):
    """Return a function that asks for the fastest precision: played times, and metrics where any are given."""
    del importable
    shop.put(spot.content_of(2))
    path = write_station(
        tmp_path, CAMERAS, store=str(shop.store.root),
        worker={"threads": 1, "engines": str(shop.cache.folder), "backend": "inductor"},
    )  # fmt: skip
    loaded, registry = load_station(path), load_plugins(PLUGINS)

    def asked(times, metrics=(), **changed):
        found = iter(metrics)
        monkeypatch.setattr(
            "calibration.fastest.take_turns", lambda engines, *_: {name: [times[name]] for name in engines}
        )
        if metrics:
            monkeypatch.setattr("calibration.margin.Trial.figures", lambda *_: next(found))
        wish = replace(EngineSettings.of(loaded.worker), **changed)
        return fastest_precision(loaded, registry, wish, lambda *_: None)

    return asked


def test_the_fastest_that_passes_wins(ask):
    """Each precision was built, passed, evaluated and timed; the one with the least time is taken."""
    chosen, records, found = ask({"fp32": 2.0, "bf16": 1.0, "int8": 1.5})
    assert (chosen, {record.precision for record in records}) == ("bf16", {"bf16"})
    assert [(each["precision"], each["passed"]) for each in found] == [("fp32", True), ("bf16", True), ("int8", True)]
    assert all(0 < each["image_auroc"] <= 1 and 0 < each["pixel_ap"] <= 1 for each in found)


def test_several_frames_are_for_the_winner_alone(ask, shop):
    """Engines for several frames at once are built in the precision that was chosen, and in no other."""
    chosen, records, _ = ask({"fp32": 2.0, "bf16": 1.0, "int8": 1.5}, batch=2)
    assert [(record.precision, record.batch) for record in records] == [(chosen, 1), (chosen, 2)]
    assert (chosen, shop.backend.compiled) == ("bf16", 4)


def test_hardly_faster_is_not_worth_it(ask):
    """A narrower format that saves less than a twentieth of the time is not taken."""
    assert ask({"fp32": 2.0, "bf16": 1.95, "int8": 1.99})[0] == "fp32"


def test_what_the_gate_refuses_is_out(ask, shop):
    """A precision that the parity gate refuses is named with its reason, and not evaluated; none left: an error."""
    shop.backend.wrong = 0.05  # within the limits of bf16 and int8, not within those of fp32
    chosen, _, found = ask({"fp32": 1.0, "bf16": 2.0, "int8": 3.0})
    assert chosen == "bf16"
    assert "parity gate refuses" in found[0]["note"]
    assert (found[0]["precision"], found[0]["passed"], found[0]["image_auroc"]) == ("fp32", False, None)
    shop.backend.wrong = 50.0
    with pytest.raises(EngineError, match="no precision passes the parity gate and keeps the metrics"):
        ask({})


def test_what_loses_metrics_is_out(ask):
    """A precision the gate lets pass is refused where it loses more than the margin; the sentence has the figures."""
    reference = Figures(0.95, 0.60)
    metrics = [reference, reference, Figures(0.95, 0.58), Figures(0.94, 0.60)]
    chosen, _, found = ask({"fp32": 3.0, "bf16": 1.0, "int8": 1.0}, metrics)
    assert chosen == "fp32"
    notes = {each["precision"]: each["note"] for each in found}
    assert notes["fp32"] == ""
    assert notes["bf16"] == "pixel_ap falls from 0.6000 to 0.5800, where 0.01 is allowed"
    assert notes["int8"] == "image_auroc falls from 0.9500 to 0.9400, where 0.005 is allowed"


@pytest.mark.parametrize("backend", ["auto", "inductor"])
def test_an_engine_that_is_gone_does_not_pass(ask, backend):
    """One the cache could not keep is told; what answers eagerly instead is never taken for the precision."""
    chosen, _, found = ask({"int8": 9.0}, backend=backend, most_mb=0)  # room for the one built last
    assert chosen == "int8"
    assert [(each["precision"], each["passed"], each["p50_ms"]) for each in found[:2]] == [
        ("fp32", False, None), ("bf16", False, None),
    ]  # fmt: skip
    assert "expected a inductor engine in fp32" in found[0]["note"]


def test_nothing_keeps_the_metrics(ask):
    """Where every precision loses too much there is no answer, and the error says why of each."""
    metrics = [Figures(0.9, 0.5), *[Figures(0.5, 0.5)] * 3]
    with pytest.raises(EngineError, match=r"fp32: image_auroc falls .*; bf16: .*; int8: image_auroc falls"):
        ask({"fp32": 1.0, "bf16": 1.0, "int8": 1.0}, metrics)
