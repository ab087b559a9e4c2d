"""The benches on which lanes are tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.host.loop import Host
from runtime.lifecycle import State
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.played_worker import PlayedSupervisor
from runtime.testing.station import PRODUCT, put_template, write_station
from tests.runtime.test_lane.bench import DEADLINE_MS, Bench


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[float | None, Path]:
    """Return a folder with a template store for each image threshold a test uses."""
    made = {threshold: tmp_path_factory.mktemp("store") for threshold in (0.5, None)}
    for threshold, folder in made.items():
        put_template(Store.create(folder / "store"), Faulty(), threshold)
    return made


@pytest.fixture
def make_bench(folders, monkeypatch):
    """Return a maker of benches; ``fields`` go into the station file."""
    monkeypatch.setattr("runtime.lane.workers.Supervisor", PlayedSupervisor)
    made: list[Bench] = []

    def make(threshold: float | None = 0.5, **fields: Any) -> Bench:
        camera = {"product": PRODUCT, "detector": "faulty", "deadline_ms": DEADLINE_MS, "queue": 2}
        path = write_station(folders[threshold], {"top": camera}, max_frame_bytes=64, **fields)
        made.append(Bench(Host(load_station(path), ())))
        return made[-1]

    yield make
    for bench in made:
        if bench.worker.state is not State.STOPPING:
            bench.lane.stop(0)
        bench.host._wake.close()
        if bench.worker.starts:
            bench.worker.end.close()


@pytest.fixture
def bench(make_bench) -> Bench:
    """Return a bench whose worker is ready."""
    bench = make_bench()
    bench.make_ready()
    return bench
