"""Every shipped detector, whole, at its shipped settings, through torch-TensorRT and TensorRT's network, without a GPU.

B: torch-TensorRT's lowering, converters and partitioner make one engine of it, with nothing left to torch.
C: TensorRT's own network interface accepts every layer, infers the right shapes, and TensorRT-RTX builds an engine.
D: the network so made, evaluated layer by layer, answers as the eager program does.
"""

from copy import deepcopy

import pytest
import torch

from edgead import BUILTIN_PLUGINS
from runtime.engines.lint import lint
from runtime.engines.tensorrt.convert import lowered, network, plan, unsupported
from runtime.engines.tensorrt.fit import fit
from runtime.engines.tensorrt.native import without_gpu
from runtime.registry import load_plugins

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # torch-TensorRT's own, of itself and of torch 2.13.
    pytest.mark.filterwarnings("ignore"),
]
DETECTORS = sorted(load_plugins(BUILTIN_PLUGINS).detectors)


class Case:
    """One detector's program, exported and fitted once for all its tests."""

    def __init__(self, shipped, name):
        torch.set_num_threads(1)
        self.name = name
        detector = load_plugins(BUILTIN_PLUGINS).detector(name)
        content = shipped.content_of(detector)
        self.program = shipped.program(detector, content)
        self.bank = list(detector.bank(content).values())
        self.map_shape = content.map_shape
        self.fitted = fit(self.program)
        self.module = lowered(self.fitted)
        self.network = network(self.module)
        generator = torch.Generator().manual_seed(3)
        self.frame = torch.randint(0, 256, (1, *shipped.FRAME), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=DETECTORS)
def case(request, library, shipped):
    """Return one shipped detector, converted."""
    del library
    return Case(shipped, request.param)


def test_the_lint_finds_nothing(case):
    """Nothing in the program, as it is given to TensorRT, is known to be refused or to convert wrongly."""
    assert [str(each) for each in lint(case.fitted)] == []


def test_every_operation_has_a_converter(case):
    """B: no operation is without a converter that takes its arguments, and none has a size that depends on data."""
    assert unsupported(case.module) == {}


def test_torch_tensorrt_itself_makes_one_engine(case):
    """B: torch-TensorRT's partitioner makes one engine of the lowered graph, and leaves nothing to torch."""
    from torch_tensorrt.dynamo.partitioning import fast_partition

    with without_gpu():
        made, _ = fast_partition(deepcopy(case.module), min_block_size=1)
    assert [name for name, _ in made.named_children()] == ["_run_on_acc_0"]
    rest = [node for node in made.graph.nodes if node.op == "call_function" and "getitem" not in str(node.target)]
    assert rest == []


def test_the_network_has_the_programs_inputs_and_outputs(case):
    """C: TensorRT infers float32 map and score of the promised shapes, from the frame and every bank tensor."""
    made = case.network.bindings()
    shapes = [(tuple(each["shape"]), each["dtype"]) for each in made["outputs"]]
    assert shapes == [((1, *case.map_shape), "float"), ((1,), "float")]
    assert [tuple(each["shape"]) for each in made["inputs"]] == [
        tuple(case.frame.shape),
        *(tuple(each.shape) for each in case.bank),
    ]
    assert made["inputs"][0]["dtype"] == "uint8"


def test_the_network_computes_what_the_program_does(case, evaluated):
    """D: evaluated layer by layer, map and score are the eager program's to rounding of float32."""
    found = evaluated(case.network, case.frame, *case.bank)
    with torch.no_grad():
        expected = case.fitted.module()(case.frame, *case.bank)
        original = case.program.module()(case.frame, *case.bank)
    for value, wanted, before in zip(found, expected, original, strict=True):
        assert wanted.abs().max() > 0.01
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
        # Fitting may move a grey level of the resized frame by one, where it lies half-way between two.
        torch.testing.assert_close(value, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def test_tensorrt_rtx_builds_it(case):
    """C: the optimiser of TensorRT-RTX, on the CPU, makes a serialised engine of it."""
    assert len(plan(case.network, ("SM89",))) > 1_000_000


@pytest.mark.parametrize("name", ["cpr-faster", "hetmm"])
@pytest.mark.usefixtures("library")
def test_several_frames_at_once_convert_as_well(shipped, evaluated, name):
    """B, C, D: two frames in one program convert whole, to shapes for two, and each answer is the eager one's."""
    detector = load_plugins(BUILTIN_PLUGINS).detector(name)
    content = shipped.content_of(detector)
    fitted = fit(shipped.program(detector, content, batch=2))
    assert lint(fitted) == []
    made = network(lowered(fitted))
    assert [tuple(each["shape"]) for each in made.bindings()["outputs"]] == [(2, *content.map_shape), (2,)]
    generator = torch.Generator().manual_seed(4)
    frames = torch.randint(0, 256, (2, *shipped.FRAME), dtype=torch.uint8, generator=generator)
    bank = list(detector.bank(content).values())
    found = evaluated(made, frames, *bank)
    with torch.no_grad():
        expected = fitted.module()(frames, *bank)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
