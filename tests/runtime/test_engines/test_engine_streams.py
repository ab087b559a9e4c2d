"""CUDA streams by priority, with a played CUDA: which stream, and that all of a frame's work goes to it."""

from contextlib import contextmanager

import pytest
import torch

from runtime.engines import engine as engine_file
from runtime.engines.engine import Engine
from runtime.engines.streams import stream_of


class PlayedStream:
    """Notes its device, its priority, and what it waits for."""

    def __init__(self, device, priority):
        self.device, self.priority, self.waited = device, priority, []

    def wait_stream(self, other):
        """Note a stream that goes first."""
        self.waited.append(other)


@pytest.fixture
def cuda(monkeypatch):
    """Replace torch's streams; return the list of those that were entered and left, in order."""
    seen = []

    @contextmanager
    def stream(chosen):
        seen.append(("enter", chosen))
        yield
        seen.append(("leave", chosen))

    monkeypatch.setattr(torch.cuda, "Stream", PlayedStream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"current of {device}")
    return seen


@pytest.mark.usefixtures("cuda")
def test_normal_goes_before_low():
    """A camera of normal priority has the higher stream; either waits for what its device was given before."""
    device = torch.device("cuda:1")
    normal, low = stream_of("normal", device), stream_of("low", device)
    assert normal.priority < low.priority == 0  # CUDA: the lower number goes first
    assert (low.device, low.waited) == (device, ["current of cuda:1"])


@pytest.mark.parametrize("priority", ["normal", "low", None])
def test_all_work_of_a_frame_goes_to_one_stream(spot, cuda, monkeypatch, priority):
    """Upload, program and download are queued on the engine's stream; without a priority on the current one."""
    expected = Engine(spot.Spot(), spot.content_of(2), threads=1).infer(spot.image(1))
    # An engine that believes in a GPU, with its tensors on the CPU and the copies played through ordinary memory.
    monkeypatch.setattr(engine_file, "_device", lambda _name: torch.device("meta"))
    played = Engine(spot.Spot(), spot.content_of(2), threads=1, priority=priority)
    content, device = spot.content_of(2), torch.device("cpu")
    played._bank = dict(spot.Spot().bank(content))
    played.device = played._staging.device = device
    for name in ("upload", "download"):
        call = getattr(played._staging, name)
        monkeypatch.setattr(played._staging, name, lambda *each, name=name, call=call: cuda.append(name) or call(*each))
    graph = played.program((32, 40, 3))
    played._programs[32, 40, 3] = lambda *each: cuda.append("program") or graph(*each)
    assert played.infer(spot.image(1)).score == pytest.approx(expected.score, rel=1e-6)
    chosen = cuda[0][1]
    assert cuda == [("enter", chosen), "upload", "program", "download", ("leave", chosen)]
    assert (chosen and chosen.priority) == {"normal": -1, "low": 0, None: None}[priority]


def test_a_cpu_has_no_streams(spot, cuda):
    """On a CPU a priority changes nothing here: the process is niced."""
    Engine(spot.Spot(), spot.content_of(2), threads=1, priority="low").infer(spot.image(0))
    assert cuda == []
