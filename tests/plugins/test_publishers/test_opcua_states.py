"""A VisionSystem's states and configuration without a server: what it would write, and which events it would send."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("asyncua", reason="asyncua is not installed: pip install 'edgead[opcua]'")

from edgead import Pulse
from plugins.publishers.opcua.camera import Answer, Camera, Desk
from plugins.publishers.opcua.vision import VisionSystem


class Played(VisionSystem):
    """Notes what is written and said."""

    def __init__(self, camera):
        super().__init__(None, 0, camera, (), "00000001")
        self.modes, self.said, self.configurations = [], [], []

    def _write_states(self):
        self.modes.append(self.mode)

    def _write_configuration(self):
        self.configurations.append(self.config)

    async def say(self, kind, text, severity, fields=None):
        """Note an event."""
        del text, severity, fields
        self.said.append(kind)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return the system of a camera called top."""
    # The structures are there only after the NodeSet was loaded.
    monkeypatch.setattr("plugins.publishers.opcua.vision.identity", lambda _, text: text)

    class Context:
        folder, line = tmp_path, None

    class Feed:
        is_done = done = staticmethod(lambda _: False)

    class Done:
        put = staticmethod(lambda _: None)

    return Played(Camera("top", Context, Desk(Feed, Done), str, acknowledge=False))


def pulse(worker):
    """Return a sign of life that says this of the camera's worker."""
    return Pulse(alive=True, status={"cameras": {"top": {"worker": worker}}})


@pytest.mark.parametrize(("worker", "mode", "events"), [("ready", "Ready", 1), ("failed", "Initialized", 0)])
def test_only_an_operational_system_is_ready_after_a_job(system, worker, mode, events):
    """A job taken while the detector is away passes through, and the camera is not called Ready behind it."""
    asyncio.run(system.beat(pulse(worker), "00000001"))
    asyncio.run(system.started("7", Answer.DONE))
    assert system.modes[-2:] == ["SingleExecution", mode]
    assert system.said.count("JobStartedEventType") == 1
    assert system.said.count("ReadyEventType") == events


def test_the_configuration_is_the_one_applied_now(system):
    """A station file that was applied is the active configuration with the next beat, and is written once."""
    for config in ("00000001", "00000002", "00000002"):
        asyncio.run(system.beat(pulse("ready"), config))
    assert (system.config, system.configurations) == ("00000002", ["00000002"])
