"""What a worker process does before it has an engine: who goes first, and who is told when there is none."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from runtime.engines.settings import EngineSettings
from runtime.worker import process
from runtime.worker.door import ENGINE_KEYS, Door
from runtime.worker.link import Link
from runtime.worker.slots import Slots


@pytest.mark.parametrize(("own", "expected"), [(None, "1"), ("0", "0")])
def test_a_low_priority(monkeypatch, own, expected):
    """A process of low priority is niced, and a client below normal of MPS where the user has not said otherwise."""
    steps: list[int] = []
    monkeypatch.setattr(os, "nice", steps.append)
    monkeypatch.delenv(process.MPS_PRIORITY, raising=False)
    if own is not None:
        monkeypatch.setenv(process.MPS_PRIORITY, own)
    process._step_back()
    assert (steps, os.environ[process.MPS_PRIORITY]) == ([process.LOW_NICE], expected)
    monkeypatch.delenv(process.MPS_PRIORITY)


def test_a_detector_that_cannot_be_loaded(monkeypatch):
    """Every lane that has come is told why, also those that came while it was tried."""
    setup = dict.fromkeys(ENGINE_KEYS) | {"slots": 1, "frame_bytes": 64, "answer_bytes": 64}
    door, bare = Door.pair()
    lanes = []

    def come() -> None:
        link, theirs = Link.pair()
        slots = Slots.create(1, 64, 64)
        link.send(setup)
        with theirs:
            door.hand_over(theirs, slots.fd)
        lanes.append((link, slots))

    def fail(_: object) -> None:
        come()
        raise RuntimeError("no such detector")

    monkeypatch.setattr(process, "load", fail)
    come()
    worker = Door(bare)
    process._serve(worker, worker.take(wait=True))
    for link, slots in lanes:
        assert link.receive() == {"op": "failed", "error": "RuntimeError: no such detector"}
        link.close()
        slots.close()
    for end in (door, worker):
        end.close()


@pytest.mark.parametrize(("shared", "batch"), [(True, 4), (False, 1)])
def test_frames_go_together_only_where_cameras_share(monkeypatch, shared, batch):
    """A worker of one camera asks for no engine for several frames, whatever the station file says."""
    asked = []
    monkeypatch.setattr("runtime.engines.choice.choose", lambda *given, **_: asked.append(given[2].batch))
    monkeypatch.setattr("runtime.engines.selftest.check_version", lambda *_: None)
    monkeypatch.setattr("runtime.registry.load_plugins", lambda _: Mock())
    monkeypatch.setattr("runtime.store.Store", Mock())
    engine = EngineSettings("eager", "fp32", Path("engines"), 1, 4).as_json()
    names = dict.fromkeys(("builtins", "detector", "store", "template", "device", "priority"), "x")
    process.load({**names, "engine": engine, "threads": 1, "shared": shared})
    assert asked == [batch]
