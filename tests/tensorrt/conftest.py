"""What the TensorRT tests share: torch-TensorRT on the TensorRT-RTX libraries, the shipped detectors, the evaluator."""

import importlib
import importlib.metadata
import sys
import warnings
from importlib import util
from pathlib import Path

import pytest
import torch

from runtime.engines.tensorrt.native import import_torch_tensorrt

HERE = Path(__file__).parent
#: The library of TensorRT-RTX, which builds without a GPU, and torch-TensorRT: of constraints/tensorrt-levels.txt.
NEEDED = ("torch_tensorrt", "tensorrt_rtx_bindings")


def beside(name):
    """Load a module beside this one by path: the tests are no package."""
    known = sys.modules.get(f"tensorrt_tests_{name}")
    if known is not None:
        return known
    spec = util.spec_from_file_location(f"tensorrt_tests_{name}", HERE / f"{name}.py")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shipped():
    """Return the module of the shipped detectors' programs."""
    return beside("shipped")


@pytest.fixture(scope="session")
def _installed():
    missing = [name for name in NEEDED if util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: run by test_tensorrt_environment.py, see docs/tensorrt.md")


@pytest.fixture(scope="session")
def library(_installed):
    """Return TensorRT-RTX's bindings under the name of TensorRT, torch-TensorRT imported on them.

    The network interface of both is the same, and torch-TensorRT takes its paths for ordinary TensorRT: other
    validators and converters than for RTX in places.
    """
    bindings = importlib.import_module("tensorrt_rtx_bindings")
    native = sys.modules["tensorrt_rtx_bindings.tensorrt_rtx"]
    bindings.tensorrt = native
    sys.modules["tensorrt"], sys.modules["tensorrt.tensorrt"] = bindings, native
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch-TensorRT's own, of packages it can do without
        import_torch_tensorrt(rtx=False)
    return bindings


@pytest.fixture
def evaluated(library):
    """Return a function: network, inputs -> outputs, layer by layer on the CPU."""
    layers, network = beside("layers"), beside("network")

    def evaluate(made, *inputs):
        with torch.inference_mode():
            return network.NetworkOnCpu(library, made.definition, layers)(*inputs)

    return evaluate


@pytest.fixture(scope="session", name="beside")
def _beside():
    """Return the loader of modules beside these tests."""
    return beside
