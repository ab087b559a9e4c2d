"""8 bits: which convolutions, how close, with which scales; what is compiled is what the program says."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from runtime.engines import inductor
from runtime.engines.build import build
from runtime.engines.engine import Engine, export
from runtime.engines.entries import program_key
from runtime.engines.quantisation import quantise
from runtime.engines.target import Target
from runtime.errors import EngineError
from runtime.store import Store

_ops = torch.ops.quantized_decomposed


def targets(program):
    """Return the operations of a program."""
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


@pytest.fixture(scope="module")
def example(spot):
    """Return the small detector's program and two examples of its inputs."""
    content = spot.content_of(2)
    rows = spot.Spot().bank(content)["rows"]
    inputs = [(torch.from_numpy(spot.image(seed))[None], rows) for seed in range(2)]
    return export(spot.Spot(), content, (32, 40, 3)), inputs


def test_convolutions_of_many_channels_are_rounded(example):
    """The second convolution (16 channels) reads rounded values and weights; the first (3 channels) is left alone."""
    program, inputs = example
    rounded, count = quantise(program, inputs)
    found = targets(rounded)
    assert count == 1
    assert found.count(_ops.quantize_per_tensor.default) == found.count(_ops.dequantize_per_channel.default) == 1
    assert [spec.target for spec in rounded.graph_signature.input_specs if spec.kind.name == "USER_INPUT"] == [None] * 2


def test_the_answer_is_close_and_not_the_same(example):
    """A frame the scales were not chosen from comes out within a few percent of the original's scale."""
    program, inputs = example
    rounded, _ = quantise(program, inputs[1:])
    with torch.no_grad():
        expected, found = program.module()(*inputs[0]), rounded.module()(*inputs[0])
    for one, other in zip(expected, found, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0, atol=0.03 * float(expected[0].abs().max()))
    assert not torch.equal(expected[0], found[0])


class Two(nn.Module):
    """Two convolutions of one input, the weight of one padded, and one whose weight is an input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 8, 2, 2))
        self.plain = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, frames, kernel):
        """Return (sum of both, what the third makes of its input)."""
        padded = nn.functional.conv2d(frames, nn.functional.pad(self.weight, (1, 0, 1, 0)), padding=1)
        return self.plain(frames) + padded, nn.functional.conv2d(frames, kernel)


def test_a_shared_input_is_rounded_once_and_zero_stays_zero():
    """One rounding serves both readers, padded weights count as constants, and a frame of zeros gives exact zeros."""
    kernel, frames = torch.randn(4, 8, 1, 1), torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        program = torch.export.export(Two().eval(), (frames, kernel), strict=True)
    rounded, count = quantise(program, [(frames, kernel)])
    assert count == 2
    assert targets(rounded).count(_ops.quantize_per_tensor.default) == 1
    nothing = torch.zeros_like(frames)
    for one, other in zip(program.module()(nothing, kernel), rounded.module()(nothing, kernel), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)


def test_what_cannot_be_rounded_says_so(example):
    """No example, and no convolution of enough channels, are errors that name another precision."""
    with pytest.raises(EngineError, match="expected golden frames"):
        quantise(example[0], [])
    with torch.no_grad():
        program = torch.export.export(nn.ReLU(), (torch.zeros(2),), strict=True)
    with pytest.raises(EngineError, match=r"worker\.precision to fp32"):
        quantise(program, [(torch.zeros(2),)])


def test_int8_is_made_for_cpus(spot, store, cache):
    """On a GPU it is refused before anything is compiled, with what to set instead."""
    template = spot.put(store, spot.content_of(2))
    target = Target("tensorrt", "int8", "cpu", 1)
    with pytest.raises(EngineError, match="expected the inductor backend on a cpu"):
        build(spot.Spot(), template, target, cache, lambda *_: None)


def test_another_bank_finds_the_engine_that_is_there(spot, target, monkeypatch):
    """The key does not hang on the golden frames, but on the way scales are chosen."""
    from dataclasses import replace

    int8 = replace(target, precision="int8")
    keys = {program_key(spot.Spot(), spot.content_of(n), (32, 40, 3), int8)[0] for n in (2, 3)}
    assert len(keys) == 1
    keys.add(program_key(spot.Spot(), spot.content_of(2), (32, 40, 3), target)[0])
    monkeypatch.setattr("runtime.engines.quantisation.VERSION", "other")
    keys.add(program_key(spot.Spot(), spot.content_of(2), (32, 40, 3), int8)[0])
    assert len(keys) == 3


_FRESH = """
import sys
from pathlib import Path
from runtime.engines.choice import choose
from runtime.engines.settings import EngineSettings
from runtime.store import Store
import spot
template = Store(Path(sys.argv[1])).template(sys.argv[2])
wish = EngineSettings("inductor", "int8", Path(sys.argv[3]), 1024)
print(choose(spot.Spot(), template, wish, "cpu", 2).engine.infer(spot.image(7)).score)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_compiled_engine_multiplies_in_8_bits(spot, tmp_path, importable):
    """The library calls oneDNN's 8-bit convolution, passes the gate, and a process without the compiler loads it."""
    del importable
    store = Store.create(tmp_path / "store")
    template = spot.put(store, spot.content_of(2))
    from runtime.engines.cache import EngineCache

    cache = EngineCache(tmp_path / "engines", 1 << 30)
    (record,) = build(spot.Spot(), template, Target("inductor", "int8", "cpu", 2), cache, lambda *_: None)
    assert record.parity["failed"] == []
    assert b"qconv" in (cache.folder / record.key / inductor.LIBRARY).read_bytes()
    found = cache.find(record.key).record
    assert (found["quantised"], found["scales_from"]) == (1, template.digest)
    command = [sys.executable, "-P", "-c", _FRESH, str(store.root), template.digest, str(cache.folder)]
    environment = {"PYTHONPATH": f"{Path(spot.__file__).parent}:{Path(inductor.__file__).parents[2]}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
    expected = Engine(spot.Spot(), template.content(), threads=2).infer(spot.image(7)).score
    assert float(done.stdout) == pytest.approx(expected, rel=0.05)
