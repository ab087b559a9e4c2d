"""The floor under an engine's time: what is counted, in which number format, and which ceiling holds."""

import pytest
import torch
from torch import nn

from runtime.engines import roofline
from runtime.engines.engine import export
from runtime.engines.precision import lower
from runtime.engines.quantisation import quantise
from runtime.engines.roofline import Ceilings, Operation, measure_ceilings, operations_of


class Sum(nn.Module):
    """A convolution of 8 to 16 channels, then a matrix product."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, planes, rows):
        """Return [1, 100, 5]."""
        return self.conv(planes).flatten(2).transpose(1, 2) @ rows


@pytest.fixture(scope="module")
def program():
    """Return its program for 10 x 10 pixels."""
    with torch.no_grad():
        return torch.export.export(Sum().eval(), (torch.ones(1, 8, 10, 10), torch.ones(16, 5)), strict=True)


def test_products_are_counted(program):
    """Multiplications and additions, and bytes read and written, are those of convolution and product by hand."""
    convolution, product = operations_of(program)
    assert convolution == Operation(2 * 16 * 100 * 8 * 9, 4 * (800 + 16 * 8 * 9 + 1600), "fp32")
    assert (product.flop, product.moved) == (2 * 100 * 16 * 5, 4 * (1600 + 80 + 500))


def test_formats_are_told_apart(spot, program):
    """16 bits move half the bytes; 8 bits move a quarter of what is read, and the rest stays what it was."""
    half = operations_of(lower(program, "bf16"))[0]
    assert (half.precision, half.moved) == ("bf16", 2 * (800 + 16 * 8 * 9 + 1600))
    rounded, _ = quantise(program, [(torch.ones(1, 8, 10, 10), torch.ones(16, 5))])
    eighth, product = operations_of(rounded)
    assert (eighth.precision, eighth.moved) == ("int8", 800 + 16 * 8 * 9 + 4 * 1600)
    assert product.precision == "fp32"
    assert operations_of(export(spot.Spot(), spot.content_of(2), (32, 40, 3)))


def test_the_longer_of_two_holds():
    """An operation takes its arithmetic or its bytes, whichever is longer, at its own format's peak; they add up."""
    ceilings = Ceilings({"fp32": 1e9, "int8": 4e9}, 1e9)
    work = [Operation(2e6, 1e6, "fp32"), Operation(4e6, 3e6, "int8")]
    assert ceilings.floor_ms(work) == pytest.approx(2 + 3)
    assert ceilings.as_json() == {"fp32_gflops": 1.0, "int8_gflops": 4.0, "memory_gb_s": 1.0}


def test_ceilings_are_measured_here(monkeypatch):
    """A CPU has peaks for every precision it is offered in, and a bandwidth; a format without a product is left out."""
    monkeypatch.setattr(roofline, "_SIDE", 64)
    monkeypatch.setattr(roofline, "_COPIED", 1 << 16)
    found = measure_ceilings("cpu", 1)
    assert found.peaks.keys() == {"fp32", "bf16", "int8"}
    assert min(found.peaks.values()) > 0
    assert found.bandwidth > 0

    def refuse(*_tensors):
        raise RuntimeError("not written")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    assert measure_ceilings("cpu", 1).peaks.keys() == {"fp32", "bf16"}
