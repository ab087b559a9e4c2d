"""The levels fail where they should: operations without a converter, refused by TensorRT, or converting wrongly."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from runtime.engines.tensorrt.convert import converted, lowered, network, plan, unsupported
from runtime.engines.tensorrt.native import without_gpu
from runtime.engines.tensorrt.options import OPTIONS, check_options
from runtime.errors import EngineError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
IMAGE = torch.rand(1, 4, 10, 10, generator=torch.Generator().manual_seed(0))


class Planted(nn.Module):
    """A small detector with one operation planted between its convolution and its answers."""

    def __init__(self, operation):
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.operation = nn.Conv2d(4, 4, 3, padding=1), operation

    def forward(self, image, bank):
        """Return (map, score)."""
        tap = self.operation(self.conv(image))
        anomaly_map = (tap.flatten(2).transpose(1, 2) @ bank).amax(2)
        return anomaly_map, anomaly_map.topk(2, dim=1).values.mean(1)


def program(operation=lambda tap: tap.relu()):
    """Return the program, and its inputs."""
    inputs = IMAGE, torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    return torch.export.export(Planted(operation).eval(), inputs, strict=True), inputs


def test_the_unplanted_graph_passes_every_level(library, evaluated):
    """Without a planted operation the small graph converts, builds, and is equal: what fails below is the plant."""
    del library
    exported, inputs = program()
    made = converted(exported)
    for found, expected in zip(evaluated(made, *inputs), exported.module()(*inputs), strict=True):
        torch.testing.assert_close(found, expected)
    assert len(plan(made, ("SM89",))) > 1000


WITHOUT_CONVERTER = {
    "kthvalue": lambda tap: tap.kthvalue(2, 1, keepdim=True).values.expand(-1, 4, -1, -1),
    "ceil_mode": lambda tap: functional.max_pool2d(tap, 3, 2, ceil_mode=True),
    "antialias": lambda tap: functional.interpolate(tap, size=(6, 6), mode="bilinear", antialias=True),
    "erfinv": lambda tap: tap.clamp(-0.5, 0.5).erfinv(),
}


@pytest.mark.parametrize("what", WITHOUT_CONVERTER)
def test_b_fails_where_a_converter_is_missing(library, what):
    """Level B names the operation, and torch-TensorRT's own compile call refuses it, too."""
    del library
    exported, inputs = program(WITHOUT_CONVERTER[what])
    module = lowered(exported)
    assert unsupported(module)
    with pytest.raises(EngineError, match=r"expected a converter for every operation, found aten\."):
        network(module)
    from torch_tensorrt.dynamo import compile as compile_program

    with without_gpu(), pytest.raises(Exception, match=r"require_full_compilation|supported|fully"):
        compile_program(exported, list(inputs), dryrun=True, **OPTIONS)


REFUSED = {
    "isfinite": lambda tap: torch.where(tap.isfinite(), tap, 0.0),
    "topk of one axis": lambda tap: tap * tap.flatten().topk(1).values,
}


@pytest.mark.parametrize("what", REFUSED)
def test_c_fails_where_tensorrt_refuses_the_network(library, what):
    """Every operation has a converter, but TensorRT's own words for a layer it does not take are the error."""
    del library
    module = lowered(program(REFUSED[what])[0])
    assert unsupported(module) == {}
    with pytest.raises(EngineError, match=r"tensorrt: .*(Error|refuses|could not infer)"):
        network(module)


WRONG = {
    "adaptive pooling that does not divide": lambda tap: functional.adaptive_avg_pool2d(tap, 7),
    "integer division": lambda tap: tap * ((tap * 10).long() / 7),
    "log_softmax of large values": lambda tap: functional.log_softmax(tap * 1000, 1),
}


@pytest.mark.parametrize("what", WRONG)
def test_d_fails_where_the_conversion_is_wrong(library, evaluated, what):
    """An operation that converts, builds and computes something else is caught by its numbers, and by the lint."""
    del library
    exported, inputs = program(WRONG[what])
    made = network(lowered(exported))
    found, expected = evaluated(made, *inputs)[0], exported.module()(*inputs)[0]
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(EngineError, match="converts wrongly"):
        converted(exported)


def test_outputs_that_bypass_the_engine_are_refused(library):
    """One tensor returned twice loses an output in the conversion; it is refused before."""
    del library

    class Twice(nn.Module):
        def forward(self, image):
            total = image.sum((1, 2))
            return total, total

    exported = torch.export.export(Twice(), (IMAGE,), strict=True)
    with pytest.raises(EngineError, match="expected different, computed outputs"):
        network(lowered(exported))


def test_options_are_known_to_the_installed_version(library):
    """Every option is a parameter of the installed functions, and a misspelt one is refused instead of dropped."""
    del library
    from torch_tensorrt.dynamo import CompilationSettings, convert_exported_program_to_serialized_trt_engine

    check_options(OPTIONS, convert_exported_program_to_serialized_trt_engine)
    check_options(OPTIONS, CompilationSettings)
    with pytest.raises(EngineError, match="found optimisation_level, which it would drop"):
        check_options({**OPTIONS, "optimisation_level": 5}, convert_exported_program_to_serialized_trt_engine)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precision_is_the_programs(library, precision):
    """A lowered program's convolutions reach the network in 16 bits, and map and score stay float32."""
    from runtime.engines.precision import lower

    exported, _ = program()
    made = converted(lower(exported, precision))
    net = made.definition
    found = {str(net.get_layer(index).type).rpartition(".")[2]: net.get_layer(index) for index in range(net.num_layers)}
    expected = {"fp16": library.DataType.HALF, "bf16": library.DataType.BF16}[precision]
    assert found["CONVOLUTION"].get_output(0).dtype == expected
    assert [each["dtype"] for each in made.bindings()["outputs"]] == ["float", "float"]
