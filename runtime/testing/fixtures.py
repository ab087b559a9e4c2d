"""pytest fixtures for plugin authors, found through the ``pytest11`` entry point of the edgead distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from runtime.testing.product import SimulatedProduct


@pytest.fixture
def simulated_product() -> SimulatedProduct:
    """Return a small simulated part (160 x 160 pixels, seed 0): good and defective frames without a camera."""
    from runtime.testing.product import SimulatedProduct

    return SimulatedProduct(seed=0, size=(160, 160))
