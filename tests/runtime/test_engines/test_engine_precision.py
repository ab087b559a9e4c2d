"""Lowering to 16 bits: convolutions and what lies between them, nothing else; close to the original, same signature."""

import pytest
import torch
from torch import nn

from runtime.engines.engine import export
from runtime.engines.precision import lower
from runtime.errors import EngineError

_aten = torch.ops.aten


def dtypes(program, *targets):
    """Return the dtypes of all results of some operations."""
    return {node.meta["val"].dtype for node in program.graph.nodes if node.target in targets}


def convolutions(program):
    """Return the dtypes of all convolutions' results."""
    return dtypes(program, _aten.conv2d.default, _aten.convolution.default)


@pytest.fixture(scope="module")
def program(spot):
    """Return the small detector's program."""
    return export(spot.Spot(), spot.content_of(2), (32, 40, 3))


def test_fp32_is_the_program_itself(program):
    """Nothing is rewritten where nothing is lowered."""
    assert lower(program, "fp32") is program


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_only_convolutions_and_what_lies_between_are_lowered(spot, program, precision, dtype):
    """Both convolutions and the activation between them are in 16 bits; distances, score and inputs are not."""
    lowered = lower(program, precision)
    assert convolutions(lowered) == {dtype}
    assert dtypes(lowered, _aten.hardtanh.default, _aten.relu6.default) == {dtype}
    casts = [node for node in lowered.graph.nodes if node.target in {_aten.to.dtype, _aten._to_copy.default}]
    assert sum(node.meta["val"].dtype == torch.float32 for node in casts) == 2  # the frame's levels, the last tap
    assert dtypes(lowered, _aten.amin.default, _aten.amax.default, _aten.cdist.default) == {torch.float32}
    rows = spot.Spot().bank(spot.content_of(2))["rows"]
    frames = torch.from_numpy(spot.image(3))[None]
    expected, found = program.module()(frames, rows), lowered.module()(frames, rows)
    for one, other in zip(expected, found, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0.02, atol=0.02)
    assert not torch.equal(expected[0], found[0])


class Tapped(nn.Module):
    """A convolution read before and after an activation in place, and a sum with what was not lowered."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, frames, rows):
        """Return three readers of one convolution."""
        planes = frames.permute(0, 3, 1, 2).float()
        tap = self.conv(planes)
        before = tap.mean((1, 2, 3))
        after = nn.functional.relu_(tap)
        return (after + planes).mean((1, 2, 3)) + rows.sum(), before, tap.amax((1, 2, 3))


def test_readers_of_a_tensor_changed_in_place_see_what_they_saw(spot):
    """In-place operations do not leak into readers before them, and a sum with a float32 tensor stays float32."""
    frames, rows = torch.from_numpy(spot.image(2))[None], torch.ones(2)
    with torch.no_grad():
        program = torch.export.export(Tapped().eval(), (frames, rows), strict=True)
    lowered = lower(program, "bf16")
    assert dtypes(lowered, _aten.relu.default) == {torch.bfloat16}
    for one, other in zip(program.module()(frames, rows), lowered.module()(frames, rows), strict=True):
        torch.testing.assert_close(other, one, rtol=0.02, atol=0.5)


def test_a_program_without_convolutions_says_so():
    """Where nothing can be lowered the precision is refused with what to set."""
    program = torch.export.export(nn.ReLU(), (torch.zeros(2),), strict=True)
    with pytest.raises(EngineError, match=r"worker\.precision to fp32"):
        lower(program, "bf16")
