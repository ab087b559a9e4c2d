"""What a camera says about its workers reaches them: where they run, and who waits for whom."""

import os
from pathlib import Path

import pytest

from runtime.lane.assignment import assignments, lanes_of
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.nothing import Nothing
from runtime.testing.station import PRODUCT, local_station, put_template, write_station
from runtime.worker.process import LOW_NICE

PLUGINS = ("runtime.testing.nothing",)
ONE = {"product": PRODUCT, "detector": "nothing"}


def test_a_camera_may_name_its_device(tmp_path):
    """A camera's own device goes before that of all workers, for its recipes too; its priority comes along."""
    store = Store.create(tmp_path / "store")
    template = store.template(put_template(store, Nothing(), 1.0))
    cameras = {"top": ONE, "side": ONE | {"device": "cuda:1", "priority": "low", "recipes": {"b": ONE}}}
    station = load_station(write_station(tmp_path, cameras, worker={"device": "cuda:0"}))
    lanes = assignments(station, {(name, recipe): template for name, recipe, _ in lanes_of(station)}, PLUGINS)
    found = {key: (each.setup["device"], each.setup["priority"]) for key, each in lanes.items()}
    assert found == {
        ("top", ""): ("cuda:0", "normal"), ("side", ""): ("cuda:1", "low"), ("side", "b"): ("cuda:1", "low"),
    }  # fmt: skip


@pytest.mark.system
def test_a_worker_of_low_priority_steps_back(tmp_path):
    """Of two cameras' workers one is niced, in every thread; the other and the host are not."""
    put_template(Store.create(tmp_path / "store"), Nothing(), 1.0)
    cameras = {"top": ONE, "side": ONE | {"priority": "low"}}
    with local_station(write_station(tmp_path, cameras), PLUGINS) as running:
        host = running.process.pid
        children = [
            child for task in Path(f"/proc/{host}/task").iterdir() for child in (task / "children").read_text().split()
        ]
        found = []
        for child in children:
            threads = {
                os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{child}/task").iterdir()
            }
            assert len(threads) == 1
            found += threads
        own = os.getpriority(os.PRIO_PROCESS, host)
    assert sorted(found) == [own, min(own + LOW_NICE, 19)]  # 19 is the last: these tests may be niced themselves
