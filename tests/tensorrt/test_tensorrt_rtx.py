"""The shipped ``tensorrt-rtx`` backend where there is no GPU: it builds engines, and says what it cannot build."""

import json

import pytest
import torch
from torch import nn

from plugins.resize import Resize
from runtime.engines.backends import backend_of
from runtime.engines.target import Target
from runtime.engines.tensorrt.compiler import BINDINGS, PLAN
from runtime.errors import EngineError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("_installed")]
TARGET = Target("tensorrt-rtx", "fp32", "cuda", 1)


class Small(nn.Module):
    """A frame's resized planes, convolved and compared with a bank, with one operation more."""

    def __init__(self, operation=None):
        super().__init__()
        self.resize, self.conv = Resize((36, 48, 3), 16), nn.Conv2d(3, 4, 3, padding=1)
        self.operation = operation or (lambda tap: tap)

    def forward(self, frames, bank):
        """Return (map, score)."""
        tap = self.operation(self.conv(self.resize(frames)))
        anomaly_map = (tap.flatten(2).transpose(1, 2) @ bank).amax(2)
        return anomaly_map, anomaly_map.amax(1)


def program(operation=None):
    """Return the program."""
    inputs = torch.zeros((1, 36, 48, 3), dtype=torch.uint8), torch.zeros(4, 6)
    return torch.export.export(Small(operation).eval(), inputs, strict=True)


def compile_into(folder, exported, ticks):
    """Compile as `edgead build` does; ``ticks``: a list of the seconds told meanwhile."""
    return backend_of("tensorrt-rtx").compile(exported, folder, TARGET, ticks.append)


def test_an_engine_is_built_without_a_gpu(tmp_path):
    """The real process leaves an engine for every listed GPU and its bindings, no pickle, and tells its versions."""
    ticks = []
    record = compile_into(tmp_path, program(), ticks)
    assert {path.name for path in tmp_path.iterdir()} == {PLAN, BINDINGS}
    assert (tmp_path / PLAN).stat().st_size > 10_000
    assert record["torch_tensorrt"].startswith("2.13.")
    assert record["tensorrt"].startswith("1.5.")
    assert record["capabilities"] == "SM86 SM89 SM120"
    assert ticks
    bindings = json.loads((tmp_path / BINDINGS).read_text())
    assert [each["shape"] for each in bindings["inputs"]] == [[1, 36, 48, 3], [4, 6]]
    assert [each["dtype"] for each in bindings["inputs"]] == ["uint8", "float"]
    assert [each["shape"] for each in bindings["outputs"]] == [[1, 256], [1]]


@pytest.mark.parametrize(
    ("operation", "match"),
    [
        (lambda tap: tap.log1p(), r"aten\.log1p.* converts wrongly"),
        (lambda tap: tap.asinh().cummax(1).values, r"expected a converter for every operation, found aten\.cummax"),
    ],
    ids=["wrong", "unknown to the lint"],
)
def test_what_cannot_be_built_is_one_sentence(tmp_path, operation, match):
    """The building process's own sentence is the error: the operation, why, and what to write instead."""
    with pytest.raises(EngineError, match=match):
        compile_into(tmp_path, program(operation), [])
    assert PLAN not in {path.name for path in tmp_path.iterdir()}
