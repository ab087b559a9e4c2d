"""`edgead apply`, `use` and `recipe` against a real host: what the host does, file, store and answers agree with."""

import numpy as np
import pytest

import edgead
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.store.template import GoldenFrame
from runtime.testing.faulty import Faulty
from runtime.testing.nothing import MAP_SIDE, Nothing
from runtime.testing.station import PRODUCT, local_station, put_template, write_station

pytestmark = pytest.mark.system

PLUGINS = ("runtime.testing.nothing", "runtime.testing.faulty")
PICTURE = np.random.default_rng(0).integers(10, 200, (40, 60), dtype=np.uint8)
RAMP = np.arange(MAP_SIDE * MAP_SIDE, dtype=np.float32).reshape(MAP_SIDE, MAP_SIDE)


def put_wrong(store):
    """Store a template of ``nothing`` with four golden frames, of which the second and fourth have wrong scores."""
    content = Nothing().calibrate([], Nothing.settings_model(), None)
    black = np.zeros((16, 16), np.uint8)
    return store.put_template(
        product=PRODUCT, detector=DetectorIdentity(name="nothing", version="1", distribution="edgead"), settings={},
        bank=content.tensors, capacity=1, valid=1, map_shape=content.map_shape, who="test",
        thresholds=Thresholds(image=2.0, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
        golden=[GoldenFrame(black, RAMP, score) for score in (0.0, 0.5, 0.0, 3.0)],
    ).digest  # fmt: skip


@pytest.fixture
def station(tmp_path, monkeypatch):
    """Return a running station with one camera that runs ``nothing``; ``faulty`` has an active template too."""
    monkeypatch.setattr(edgead, "BUILTIN_PLUGINS", PLUGINS)
    store = Store.create(tmp_path / "store")
    for detector in (Nothing(), Faulty()):
        put_template(store, detector, 1.0)
    camera = {"product": PRODUCT, "detector": "nothing", "deadline_ms": 60000, "guard": None}
    path = write_station(tmp_path, {"top": camera | {"recipes": {"b": {"product": PRODUCT, "detector": "faulty"}}}})
    with local_station(path, PLUGINS) as running:
        yield running


@pytest.mark.timeout(300)
def test_a_day_with_a_station(station, run):
    """Swaps, a refused template, a setting, a recipe: every answer is from what the command said it brought."""
    path, store = station.path, Store(station.path.parent / "store")
    status = ("status", "--station", path, "--json")
    detectors = []
    with station.subscriber() as results, station.camera() as camera:

        def answered():
            camera.answer(np.roll(PICTURE, len(detectors)))
            detectors.append(results.receive(30_000).inspection.detector)
            return detectors[-1]

        assert answered() == "nothing"
        before = path.read_text()
        used = run("use", "faulty", "--station", path, "--json")
        assert (used.code, used.last["state"]) == (0, "applied"), used.err
        assert answered() == "faulty"
        assert path.read_text() == before.replace('"detector": "nothing"', '"detector": "faulty"')
        assert run("apply", path, "--json").last["state"] == "unchanged"

        assert run("use", "nothing", "--station", path, "--camera", "top").code == 0
        old, wrong = store.active(PRODUCT, "nothing").digest, put_wrong(store)
        refused = run("use", wrong[:12], "--station", path, "--json")
        assert (refused.code, refused.last["state"]) == (1, "refused")
        assert "golden frames 1, 3 of 4 failed (fp32)" in refused.last["why"][0]
        assert "verdict flips" in refused.last["why"][0]
        assert store.active(PRODUCT, "nothing").digest == old
        assert run("apply", path, "--json").last["state"] == "unchanged"
        assert "golden frames 1, 3 of 4 failed" in run(*status[:-1]).err
        assert answered() == "nothing"

        path.write_text(path.read_text().replace('"deadline_ms": 60000', '"deadline_ms": 50000'))
        workers = run(*status).last["cameras"]["top"]["worker_pid"]
        changed = run("apply", path, "--json")
        assert (changed.code, changed.last["state"], changed.last["swapped"]) == (0, "applied", [])
        assert run(*status).last["cameras"]["top"]["worker_pid"] == workers

        assert run("recipe", "b", "--station", path).code == 0
        assert answered() == "faulty"
        assert run("recipe", "--own", "--station", path).code == 0
        assert answered() == "nothing"
        assert run("recipe", "nosuch", "--station", path).code == 2
    table = run("status", "--station", path)
    assert max(map(len, table.out.splitlines())) <= 80
    assert "swaps" in table.out


def test_what_needs_a_restart_touches_nothing(station, run):
    """A file that needs a restart, or is invalid, is refused with 2 by name, and the host goes on as before."""
    path = station.path
    sound, before = path.read_text(), station.status()
    for old, new, word in (
        ('"station": "test"', '"station": "other"', "station: a running host cannot change this"),
        ('"deadline_ms": 60000', '"deadline_ms": 0', "cameras.top.deadline_ms"),
        ('"detector": "nothing"', '"detector": "nosuch"', "nosuch"),
    ):
        path.write_text(sound.replace(old, new))
        done = run("apply", path)
        assert (done.code, word in done.err) == (2, True), done.err
        after = station.status()
        assert after["cameras"]["top"]["worker_pid"] == before["cameras"]["top"]["worker_pid"]
        assert (after["swaps"], after["applies"]) == ([], [])


def test_another_stations_file_is_refused(station, run, tmp_path):
    """A copy of the file is not the file the host reads: refused, naming both."""
    copy = tmp_path / "copy.yaml"
    copy.write_text(station.path.read_text())
    done = run("apply", copy)
    assert done.code == 2
    assert str(station.path) in done.err
    assert str(copy) in done.err


def test_a_refused_detector(tmp_path, monkeypatch, run):
    """A detector whose worker fails its self-test: the file is as it was, the old one inspects, nothing is pending."""
    monkeypatch.setattr(edgead, "BUILTIN_PLUGINS", PLUGINS)
    store = Store.create(tmp_path / "store")
    put_template(store, Faulty(), 1.0)
    store.activate(put_wrong(store), who="test")
    path = write_station(tmp_path, {"top": {"product": PRODUCT, "detector": "faulty", "deadline_ms": 60000}})
    before = path.read_text()
    with local_station(path, PLUGINS) as station, station.camera() as camera, station.subscriber() as results:
        done = run("use", "nothing", "--station", path)
        assert done.code == 1
        assert "golden frames 1, 3 of 4 failed (fp32)" in done.err
        assert "is as it was" in done.err
        assert path.read_text() == before
        assert run("apply", path, "--json").last["state"] == "unchanged"
        camera.answer(PICTURE)
        assert results.receive(30_000).inspection.detector == "faulty"
