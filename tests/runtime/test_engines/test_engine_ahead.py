"""A station gets its engines before it starts: found without torch, built where missing, told where that fails."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.engines.ahead import build_station, is_ready, prepare, wanted, with_choice
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


def test_cameras_on_other_devices_have_engines_of_their_own(shop, spot, station):
    """What a camera says about its device goes before what all workers are told; each pair is wanted once."""
    shop.put(spot.content_of(2))
    cameras = CAMERAS | {"left": CAMERAS["top"] | {"device": "cuda:1"}, "right": CAMERAS["top"] | {"device": "cpu"}}
    folder = station().parent
    loaded = load_station(write_station(folder, cameras, store=str(shop.store.root), worker={"backend": "auto"}))
    found = [(detector.name, device) for detector, _, device in wanted(loaded, load_plugins(PLUGINS))]
    assert found == [("spot", "cpu"), ("spot", "cuda:1")]
    assert not is_ready(loaded, load_plugins(PLUGINS))  # what a GPU needs is for the process that builds to see


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


def test_building_beside_a_host_takes_what_it_leaves(shop, spot, station, monkeypatch):
    """The process that builds, and what it starts, run in the idle class; a failure leaves what runs."""
    shop.put(spot.content_of(2))
    found = []

    def asked(command, *, check):
        program = command[3].replace("main(", "print(os.sched_getscheduler(0)) or list(").replace("sys.argv[1], ", "")
        done = subprocess.run([*command[:3], program], capture_output=True, text=True, timeout=60, check=check)
        found.append(int(done.stdout))
        return subprocess.CompletedProcess(command, 9)

    monkeypatch.setattr("runtime.engines.ahead.run", asked)
    with pytest.raises(EngineError, match="what runs stays as it is"):
        prepare(station(backend="inductor"), PLUGINS, beside_host=True)
    assert found == [os.SCHED_IDLE]


@pytest.mark.parametrize("backend", ["inductor", "auto"])
def test_an_interrupted_build_is_an_error_whatever_the_backend(shop, spot, station, monkeypatch, backend):
    """Ctrl-C while engines are built brings nothing into the station, and a selection can be taken back."""
    shop.put(spot.content_of(2))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.engines.ahead.run", interrupted)
    with pytest.raises(EngineError, match="interrupted; what runs stays as it is"):
        prepare(station(backend=backend), PLUGINS, beside_host=True)


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
