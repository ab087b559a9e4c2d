"""A station gets its engines before it starts: found without torch, built where missing, told where that fails."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.engines.ahead import build_station, is_ready, prepare, wanted, with_choice
from runtime.engines.fastest import fastest_precision
from runtime.engines.settings import EngineSettings
from runtime.errors import ConfigError, EngineError
from runtime.registry import load_plugins
from runtime.station.config import load_station
from runtime.testing.station import local_station, write_station

CAMERAS = {"top": {"product": "part", "detector": "spot"}, "side": {"product": "part", "detector": "spot"}}
PLUGINS = ("spot",)


@pytest.fixture
def station(tmp_path, shop, importable):
    """Return a function that writes a station for the workshop's store and cache, with keys of `worker` added."""
    del importable

    def write(**worker):
        settings = {"threads": 1, "engines": str(shop.cache.folder)} | worker
        return write_station(tmp_path, CAMERAS, store=str(shop.store.root), worker=settings)

    return write


def test_an_eager_station_needs_nothing(shop, station):
    """Without compiled backends nothing is looked for, and no cache appears."""
    assert prepare(station(), PLUGINS) == ""
    assert not shop.cache.folder.exists()


def test_cameras_of_one_product_share_an_engine(shop, spot, station):
    """What two cameras need alike is built once, and is then there."""
    shop.put(spot.content_of(2))
    loaded, registry = load_station(station(backend="inductor")), load_plugins(PLUGINS)
    assert not is_ready(loaded, registry)
    records = build_station(loaded, registry, lambda *_: None)
    assert (len(records), shop.backend.compiled) == (1, 1)
    assert is_ready(loaded, registry)
    with pytest.raises(ConfigError, match="found 'left'"):
        list(wanted(loaded, registry, "left"))


def test_looking_costs_no_torch(shop, spot, station):
    """Whether engines are there is found out without importing torch: `edgead run` starts as fast as ever."""
    shop.put(spot.content_of(2))
    path = station(backend="auto")
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import runtime.engines.ahead as ahead, runtime.engines.approvals, runtime.engines.cache\n"
        "from runtime.station.config import load_station\n"
        "ahead.EngineSettings.of(load_station(ahead.Path(sys.argv[1])).worker)\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-P", "-c", program, str(path), str(Path(spot.__file__).parent)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "False\n"


def test_a_damaged_engine_is_not_ready(shop, spot, station):
    """A station whose engine lost a bit is built again before it starts."""
    shop.put(spot.content_of(2))
    loaded, registry = load_station(station(backend="inductor")), load_plugins(PLUGINS)
    (record,) = build_station(loaded, registry, lambda *_: None)
    (shop.cache.folder / record.key / "model.so").write_bytes(b"")
    assert not is_ready(loaded, registry)
    (again,) = build_station(loaded, registry, lambda *_: None)
    assert again.compiled
    assert is_ready(loaded, registry)


def test_a_build_that_fails_stops_a_station_or_is_told(shop, spot, station, monkeypatch, capfd):
    """Without a compiler `inductor` does not start the station; `auto` says that it inspects eagerly."""
    shop.put(spot.content_of(2))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineError, match="stays off"):
        prepare(station(backend="inductor"), PLUGINS)
    assert "workers inspect eagerly" in prepare(station(backend="auto"), PLUGINS)
    assert "install g++" in capfd.readouterr().err


def test_the_command_line_wins_over_the_file():
    """The precision of `edgead build` replaces the file's; an eager station's engines are built as for `inductor`."""
    eager = EngineSettings("eager", "fp32", Path("x"), 1)
    assert with_choice(eager, None) == replace(eager, backend="inductor")
    assert with_choice(replace(eager, backend="auto"), "bf16") == replace(eager, backend="auto", precision="bf16")
    assert with_choice(replace(eager, backend="inductor", precision="bf16"), None).precision == "bf16"


def test_auto_takes_what_the_gate_lets_pass(shop, spot, station, monkeypatch):
    """Of the precisions that pass, the fastest wins; one the gate refuses is named with its reason; none: an error."""
    shop.put(spot.content_of(2))
    loaded, registry = load_station(station(backend="inductor")), load_plugins(PLUGINS)
    wish = EngineSettings.of(loaded.worker)
    slow = {"fp32": [2.0], "bf16": [1.0]}
    monkeypatch.setattr(
        "runtime.engines.fastest.take_turns", lambda engines, *_: {name: slow[name] for name in engines}
    )
    chosen, records, found = fastest_precision(loaded, registry, wish, lambda *_: None)
    assert (chosen, {record.precision for record in records}) == ("bf16", {"bf16"})
    assert [(each["precision"], each["passed"]) for each in found] == [("fp32", True), ("bf16", True)]
    slow["bf16"] = [1.95]  # hardly faster: not worth the rounding
    assert fastest_precision(loaded, registry, wish, lambda *_: None)[0] == "fp32"
    shop.backend.wrong = 0.05  # within bf16's limits, not within fp32's
    chosen, _, found = fastest_precision(loaded, registry, wish, lambda *_: None)
    assert chosen == "bf16"
    assert "parity gate refuses" in found[0]["note"]
    shop.backend.wrong = 50.0
    with pytest.raises(EngineError, match="no precision passes"):
        fastest_precision(loaded, registry, wish, lambda *_: None)


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("importable")
def test_a_station_inspects_with_a_compiled_engine(built, tmp_path):
    """A host whose worker loads a really compiled engine says so in its status, and its scores are the reference's."""
    store, template, cache, _ = built
    worker = {"threads": 2, "backend": "inductor", "engines": str(cache.folder)}
    cameras = {"top": {"product": "part", "detector": "spot", "deadline_ms": 20_000, "exposure": None}}
    path = write_station(tmp_path, cameras, store=str(store.root), worker=worker)
    assert prepare(path, PLUGINS) == ""  # it is there
    golden = template.golden()[0]
    with local_station(path, PLUGINS) as running, running.subscriber() as subscriber, running.camera() as camera:
        engine = running.status()["cameras"]["top"]["engine"]
        assert engine == {"backend": "inductor", "precision": "fp32", "note": ""}
        camera.send(golden.frame)
        inspection = subscriber.receive(60_000).inspection
    assert inspection.score == pytest.approx(golden.score, rel=1e-4)
