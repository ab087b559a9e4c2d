"""Every fault of a station is named before it runs, and nothing is changed by looking."""

import socket

import pytest

from runtime.detector import DetectorContext
from runtime.ledger import Ledger
from runtime.preflight import check_station
from runtime.registry import load_plugins
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.testing.nothing import Nothing

REGISTRY = load_plugins(("runtime.testing.nothing", "plugins.hetmm"), entry_points=False)


def put(store, version="1", weights=None, threshold=1.0):
    """Store and activate a template of ``nothing`` for product ``part``; return its id."""
    content = Nothing().calibrate([], Nothing.settings_model(), DetectorContext())
    template = store.put_template(
        product="part", detector=DetectorIdentity(name="nothing", version=version, distribution="edgead"), settings={},
        bank=content.tensors, capacity=1, valid=1, map_shape=content.map_shape, golden=(), who="test",
        weights=weights or {},
        thresholds=Thresholds(image=threshold, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
    )  # fmt: skip
    store.activate(template.digest, who="test")
    return template.digest


@pytest.fixture
def station(tmp_path):
    """Return a function that writes a station file, a key of it replaced where given, and checks it."""
    store = Store.create(tmp_path / "store")

    def check(*, beside_host=False, **keys):
        values = {
            "schema": "edgead.station/1",
            "station": "line1",
            "cameras": "{top: {product: part, detector: nothing}}",
        }
        values |= {key: f"ipc://{tmp_path}/{key}" for key in ("frames", "results", "status")}
        path = tmp_path / "station.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in (values | keys).items()))
        report = check_station(path, REGISTRY, beside_host=beside_host)
        assert report.ok is all(each["ok"] for each in report.checks)
        return report, {each["check"]: each["detail"] for each in report.checks if not each["ok"]}

    check.store = store
    return check


def test_a_station_without_a_fault(station):
    """A whole station passes; each check says what it found."""
    template = put(station.store)
    report, faults = station()
    assert (report.ok, faults) == (True, {})
    details = {each["check"]: each["detail"] for each in report.checks}
    addresses = ["frames address", "results address", "status address"]
    assert [*details] == ["station file", *addresses, "ledger", "store", "camera top"]
    assert template[:12] in details["camera top"]
    assert "threshold 1.0000" in details["camera top"]


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_on_a_machine_without_it_is_named(station, monkeypatch, backend):
    """A backend whose GPU or packages are missing is a fault of the station, with what to do, before it runs."""
    put(station.store)
    _, faults = station(worker=f"{{backend: {backend}}}")
    assert [*faults] == ["engine"]
    assert faults["engine"].startswith(f"{backend}: expected worker.device cuda or cuda:N, found 'cpu'")
    monkeypatch.setattr("runtime.engines.tensorrt.ready.versions", lambda _: {"tensorrt": "none"})
    _, faults = station(worker=f"{{backend: {backend}, device: cuda}}")
    assert f"found no tensorrt: install `edgead[{backend}]`" in faults["engine"]


def test_nothing_is_changed(station, tmp_path):
    """Checking a station writes nothing."""
    put(station.store)
    station()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    check_station(tmp_path / "station.yaml", REGISTRY)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_wrong_file_is_the_only_fault(station):
    """A station file that cannot be read has its fault with its line, and nothing else is checked."""
    report, faults = station(nosuch=1)
    assert [*faults] == ["station file"]
    assert "station.yaml:7: nosuch" in faults["station file"]
    assert len(report.checks) == 1


def test_a_taken_address_is_named(station):
    """A TCP address somebody listens on is a fault of its own; a free one, or one of every card, is none."""
    put(station.store)
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        _, faults = station(frames=f"tcp://127.0.0.1:{port}", results=f"tcp://*:{free}")
        assert [*faults] == ["frames address"]
        assert f"tcp://127.0.0.1:{port}" in faults["frames address"]


def test_an_address_of_another_machine_is_named(station):
    """An address this machine does not have cannot be bound, and is named."""
    put(station.store)
    _, faults = station(status="tcp://192.0.2.1:5603")
    assert "192.0.2.1" in faults["status address"]


def test_a_missing_store_is_named(station, tmp_path):
    """A store that is not there is a fault; its cameras cannot be checked."""
    report, faults = station(store=tmp_path / "nowhere")
    assert "nowhere" in faults["store"]
    assert "camera top" not in {each["check"] for each in report.checks}


def test_a_missing_template_is_named(station):
    """A product without an active template is a fault of the camera, with the command that mends it."""
    _, faults = station()
    assert "edgead calibrate" in faults["camera top"]


def test_a_missing_detector_is_named(station):
    """A detector nobody brings is a fault of the camera, with what is installed."""
    put(station.store)
    _, faults = station(cameras="{top: {product: part, detector: nosuch}}")
    assert "installed are hetmm, nothing" in faults["camera top"]


def test_damage_is_named(station, tmp_path):
    """One changed byte of a template is a fault of the camera that would run it."""
    put(station.store)
    bank = max(
        (path for path in (tmp_path / "store" / "objects").rglob("*") if path.is_file()), key=lambda p: len(p.name)
    )
    content = bytearray(bank.read_bytes())
    content[-1] ^= 1
    bank.chmod(0o644)
    bank.write_bytes(content)
    _, faults = station()
    assert [*faults] == ["camera top"]


def test_another_version_is_named(station):
    """A template of another version of its detector is a fault: calibrate again."""
    put(station.store, version="0")
    _, faults = station()
    assert "version 0" in faults["camera top"]
    assert "calibrate again" in faults["camera top"]


@pytest.mark.parametrize(
    ("weights", "word"), [("resnet18", "edgead weights"), ("efficientnet_lite0", "calibrate again")]
)
def test_other_weights_are_named(weights, word, station):
    """A template whose weight file is missing, or not the one it was made with, is a fault."""
    put(station.store, weights={weights: "0" * 64})
    _, faults = station()
    assert weights in faults["camera top"]
    assert word in faults["camera top"]


def test_no_threshold_is_said(station):
    """A template without thresholds passes, but what it means is said."""
    put(station.store, threshold=None)
    report, faults = station()
    assert faults == {}
    assert "NotDecidable" in report.checks[-1]["detail"]


def test_the_ledger_is_looked_at(station, tmp_path):
    """A ledger that is held, another station's, or in a place that cannot be written is a fault."""
    put(station.store)
    with Ledger(tmp_path / "ledger" / "ledger.sqlite", "line1"):
        _, faults = station()
        assert "another process writes it" in faults["ledger"]
    report, faults = station()
    assert (report.ok, faults) == (True, {})
    _, faults = station(station="line2")
    assert "expected the ledger of station 'line2', found that of 'line1'" in faults["ledger"]
    (tmp_path / "file").write_text("")
    _, faults = station(ledger="{path: file/ledger}")
    assert "expected a folder that can be written" in faults["ledger"]
    report, faults = station(ledger="null")
    assert "ledger" not in {each["check"] for each in report.checks}
    assert faults == {}


def test_root_is_told_what_it_cannot_check(station, monkeypatch):
    """As root, for whom every folder can be written, the ledger's check says so; as anybody else it does not."""
    put(station.store)
    for user, said in ((0, True), (1000, False)):
        monkeypatch.setattr("os.geteuid", lambda user=user: user)
        report, _ = station()
        (detail,) = (each["detail"] for each in report.checks if each["check"] == "ledger")
        assert ("checked as root" in detail) is said


def test_beside_its_host(station, tmp_path):
    """Beside the host that runs it, a station's addresses and ledger are in use and no fault; the rest is checked."""
    put(station.store)
    with socket.create_server(("127.0.0.1", 0)) as taken, Ledger(tmp_path / "ledger" / "ledger.sqlite", "line1"):
        frames = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert {*station(frames=frames)[1]} == {"frames address", "ledger"}
        report, faults = station(frames=frames, beside_host=True)
    assert faults == {}
    assert [each["check"] for each in report.checks] == ["station file", "store", "camera top"]


def test_recipes_are_checked(station):
    """Every recipe needs an active template of its own product, as a camera does."""
    put(station.store)
    cameras = "{{top: {{product: part, detector: nothing, recipes: {{a: {{product: {}, detector: nothing}}}}}}}}"
    report, faults = station(cameras=cameras.format("part"))
    assert faults == {}
    assert report.checks[-1]["check"] == "camera top recipe a"
    _, faults = station(cameras=cameras.format("other"))
    assert [*faults] == ["camera top recipe a"]
    assert "active template of 'other'" in faults["camera top recipe a"]
