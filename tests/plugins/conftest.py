"""What the tests of the detectors share: the slow reference, and a few frames of a simulated product."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from runtime.frame import Frame
from runtime.testing.product import SimulatedProduct

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_torch_thread(_few_torch_threads: None) -> None:
    # Maps of 16 x 16 are done before a second thread has woken up; on a busy machine waiting for it is all there is.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def atmm() -> ModuleType:
    """Return the float64 reference of HETMM's arithmetic."""
    return _beside("reference_atmm")


@pytest.fixture(scope="session")
def cpr() -> ModuleType:
    """Return the float64 reference of CPR's arithmetic."""
    return _beside("cpr_reference")


@pytest.fixture(scope="session")
def mspba() -> ModuleType:
    """Return the float64 reference of MSPBA's arithmetic."""
    return _beside("mspba_reference")


def _beside(name: str) -> ModuleType:
    """Load a module beside this one by path: the tests are no package."""
    spec = util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def frames() -> list[Frame]:
    """Return ten good frames, uint8 [128, 144, 3]."""
    product = SimulatedProduct(seed=1, size=(128, 144))
    return [Frame(product.draw(index).image, f"{index:03d}.png") for index in range(10)]


@pytest.fixture(scope="session")
def damaged() -> Frame:
    """Return a frame of another part of the same product, chipped."""
    return Frame(SimulatedProduct(seed=1, size=(128, 144)).draw(20, "chip").image, "chip.png")
