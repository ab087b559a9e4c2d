"""`edgead bench end-to-end`: a real line beside its bare detector; what it must not count it refuses."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from runtime.end_to_end import BLOCK, WINDOW, _calm_copy, _Line, bench_end_to_end
from runtime.errors import StationError
from runtime.station.config import load_station
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.store.template import GoldenFrame
from runtime.testing.nothing import MAP_SIDE, Nothing
from runtime.testing.station import PRODUCT, write_station

PLUGINS = ("runtime.testing.nothing",)
CAMERAS = {
    "top": {"product": PRODUCT, "detector": "nothing", "deadline_ms": 5, "recipes": {"b": {"product": PRODUCT}}},
    "side": {"product": PRODUCT, "detector": "nothing"},
}


def put(store, golden=1):
    """Store and activate a template of ``nothing`` with black golden frames."""
    content = Nothing().calibrate([], Nothing.settings_model(), None)
    ramp = content.tensors["map"].reshape(MAP_SIDE, MAP_SIDE)
    template = store.put_template(
        product=PRODUCT, detector=DetectorIdentity(name="nothing", version="1", distribution="edgead"), settings={},
        bank=content.tensors, capacity=1, valid=1, map_shape=content.map_shape, who="test",
        thresholds=Thresholds(image=2.0, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
        golden=[GoldenFrame(np.zeros((48, 64, 3), np.uint8), ramp, 0.0)] * golden,
    )  # fmt: skip
    store.activate(template.digest, who="test")


def test_the_copy_disturbs_nobody(tmp_path):
    """The measured station has one camera, addresses and a ledger of its own, and nothing that would refuse a frame."""
    path = write_station(tmp_path, CAMERAS, store="store", deliveries="tcp://127.0.0.1:1")
    station, folder = load_station(path), tmp_path / "copy"
    folder.mkdir()
    copy = load_station(_calm_copy(station, "top", folder))
    assert list(copy.cameras) == ["top"]
    assert not {copy.frames, copy.results, copy.status} & {station.frames, station.results, station.status}
    assert (copy.deliveries, copy.store, copy.ledger.path) == (None, station.store, folder / "ledger")
    top = copy.cameras["top"]
    assert (top.deadline_ms, top.exposure, top.repeat_limit, top.recipes) == (60_000, None, None, {})


@dataclass
class Inspection:
    """What is read of a result."""

    acquired_ns: int
    detect_us: int
    score: float | None = 0.5
    error: str = "timeout"
    error_detail: str = "too late"


@dataclass
class Received:
    """A result."""

    inspection: Inspection


class Played:
    """Sender, bare detector and subscriber: a bare block takes 0.5 s, a frame 9 ms on its way and 4 in the worker."""

    def __init__(self, monkeypatch, score=0.5):
        self.score, self.said, self.ns = score, [], 0
        monkeypatch.setattr("runtime.end_to_end.time.time_ns", lambda: self.ns)
        monkeypatch.setattr("runtime.end_to_end.time.perf_counter", lambda: self.ns / 1e9)

    def tell(self, line):
        """Note it."""
        self.said.append(line)

    def answer(self):
        """Say so."""
        return "done"

    def ask(self, line):
        """Take half a second for a block."""
        assert line.split()[0] == str(BLOCK)
        return "0.5"

    def receive(self, _timeout_ms):
        """Return the next result, 40 ms after the last."""
        self.ns += 40_000_000
        return Received(Inspection(self.ns - 9_000_000, 4000, self.score))


def test_figures_are_those_of_the_times(monkeypatch):
    """Rates, their ratio, and what the line adds to the worker's own time follow from the times played."""
    played = Played(monkeypatch)
    seen = []
    found = _Line(played, played, played).measure(2, lambda *each: seen.append(each))
    assert (found["bare_fps"], found["line_fps"], found["throughput_ratio"]) == (2 * BLOCK, 25, 0.5)
    assert (found["added_ms_p50"], found["added_ms_p99"], found["whole_ms_p50"]) == (5, 5, 9)
    one_by_one = ["1 1"] * BLOCK  # the result before it is here
    assert played.said == [*one_by_one, *[*one_by_one, f"{BLOCK} {WINDOW}"] * 2]
    assert seen == [(1, 2, "end to end"), (2, 2, "end to end")]


def test_a_frame_that_is_not_decided_is_no_figure(monkeypatch):
    """A line that answers NotDecidable is not measured."""
    played = Played(monkeypatch, score=None)
    with pytest.raises(StationError, match="expected decided results, found timeout: too late"):
        _Line(played, played, played).measure(1, lambda *_: None)


@pytest.mark.system
@pytest.mark.timeout(300)
def test_a_real_line_is_measured(tmp_path):
    """Camera process, host, worker and subscriber move real frames; the bare detector is faster than its line."""
    put(Store.create(tmp_path / "store"))
    station = load_station(write_station(tmp_path, CAMERAS, store="store"))
    found = bench_end_to_end(station, PLUGINS, 10, lambda *_: None)
    line = found["line"]
    assert (line["detector"], line["frame"], line["engine"]) == ("nothing", "48 x 64 x 3", "eager")
    assert line["bare_fps"] > line["line_fps"] > 0
    assert 0 < line["added_ms_p50"] <= line["whole_ms_p50"] <= line["whole_ms_p99"]
    assert found["machine"]["frames"] == BLOCK
    json.dumps(found)


def test_without_golden_frames_there_is_nothing_to_send(tmp_path):
    """A template without golden frames is refused with its id."""
    put(Store.create(tmp_path / "store"), golden=0)
    station = load_station(write_station(tmp_path, CAMERAS, store="store"))
    with pytest.raises(StationError, match="expected golden frames to send"):
        bench_end_to_end(station, PLUGINS, 10, lambda *_: None)
