"""Lowering to 16 bits: convolutions, what lies between them, and products that say they bear it; nothing else."""

import pytest
import torch
from torch import nn
from torch.fx.traceback import annotate

from runtime.engines.engine import export
from runtime.engines.precision import BEARS_16_BITS, lower
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


class Branched(nn.Module):
    """Halves of a convolution's result, a mean of one, joined and convolved again; the mean may be read elsewhere."""

    def __init__(self, *, shared):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last, self.shared = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), shared

    def forward(self, planes):
        """Return the last convolution's result, and the mean's sum where it is shared."""
        wide = self.first(planes)
        mean = nn.functional.avg_pool2d(wide[:, :2], 3, 1, 1)
        joined = torch.cat((nn.functional.relu(mean), wide[:, 2:]), 1)
        return self.last(joined), mean.sum() if self.shared else planes.sum()


@pytest.mark.parametrize("shared", [False, True])
def test_what_moves_values_between_convolutions_is_lowered_with_them(shared):
    """Slices and joins are in 16 bits, means where only convolutions read them: no number differs by it."""
    planes = torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        program = torch.export.export(Branched(shared=shared).eval(), (planes,), strict=True)
    lowered = lower(program, "bf16")
    assert dtypes(lowered, _aten.slice.Tensor) == {torch.bfloat16}
    assert dtypes(lowered, _aten.avg_pool2d.default) == {torch.float32 if shared else torch.bfloat16}
    assert dtypes(lowered, _aten.cat.default) == {torch.float32 if shared else torch.bfloat16}
    module = program.module()
    first, last = module.first, module.last
    wide = nn.functional.conv2d(planes.bfloat16(), first.weight.bfloat16(), first.bias.bfloat16()).float()
    mean = nn.functional.avg_pool2d(wide[:, :2], 3, 1, 1)
    joined = torch.cat((mean.relu(), wide[:, 2:]), 1).bfloat16()
    expected = nn.functional.conv2d(joined, last.weight.bfloat16(), last.bias.bfloat16()).float()
    assert torch.equal(lowered.module()(planes)[0], expected)


class Products(nn.Module):
    """A convolution, and two products with a bank, of which one says that it bears 16 bits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, planes, bank):
        """Return the convolution's sum and both products."""
        rows, bank = planes.flatten(2), bank.to(torch.float32).view(1, 9, 4)
        with annotate({BEARS_16_BITS: True}):
            borne = torch.bmm(rows, bank)
        return self.conv(planes).sum(), borne, torch.bmm(rows, bank)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_only_a_product_that_says_so_is_lowered(precision, dtype):
    """Its factors are rounded and so is its result; the other product of the same numbers is what it was."""
    torch.manual_seed(1)
    planes, bank = torch.rand(1, 3, 3, 3), torch.rand(36).half()
    with torch.no_grad():
        program = torch.export.export(Products().eval(), (planes, bank), strict=True)
    lowered = lower(program, precision)
    found = [node.meta["val"].dtype for node in lowered.graph.nodes if node.target == _aten.bmm.default]
    assert found == [dtype, torch.float32]
    _, borne, exact = lowered.module()(planes, bank)
    rows, matrix = planes.flatten(2), bank.float().view(1, 9, 4)
    assert borne.dtype == torch.float32
    assert torch.equal(borne, torch.bmm(rows.to(dtype), matrix.to(dtype)).float())
    assert torch.equal(exact, torch.bmm(rows, matrix))
    assert not torch.equal(borne, exact)


def test_a_narrow_bank_is_no_conversion_without_vectors():
    """Between float16 and bfloat16 stands a bound that changes no number; before float16 itself there is none."""
    planes, bank = torch.rand(1, 3, 3, 3), torch.rand(36).half()
    with torch.no_grad():
        program = torch.export.export(Products().eval(), (planes, bank), strict=True)
    assert dtypes(lower(program, "bf16"), _aten.clamp_min.default) == {torch.float32}
    assert not dtypes(lower(program, "fp16"), _aten.clamp_min.default)


def test_a_program_without_convolutions_says_so():
    """Where nothing can be lowered the precision is refused with what to set."""
    program = torch.export.export(nn.ReLU(), (torch.zeros(2),), strict=True)
    with pytest.raises(EngineError, match=r"worker\.precision to fp32"):
        lower(program, "bf16")
