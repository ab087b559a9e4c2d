"""The worker's own way to half precision is numpy's, bit for bit."""

import numpy as np
import pytest

from runtime.worker.half import PIECE, to_float16


def numbers() -> np.ndarray:
    """Return float32 numbers of every exponent float16 has, and what lies on and beside the ties between two."""
    bits = np.arange(0, 2**32, 65_537, dtype=np.uint64).astype(np.uint32)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    values = np.concatenate(
        [bits.view(np.float32), halves, ties, np.nextafter(ties, 0), np.nextafter(ties, 1e9), -ties]
    )
    return values[np.abs(values) <= 65_504]  # not NaN either


def test_rounding_is_that_of_numpy():
    """Numbers, ties, subnormals and both zeros come out with the very bits numpy gives."""
    values = numbers()
    assert values.size > 5 * PIECE
    assert to_float16(values).tobytes() == values.astype(np.float16).tobytes()


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, PIECE), (PIECE + 1,)])
def test_any_shape_and_layout(shape):
    """Whatever its shape, in pieces or not, transposed or read-only, a map keeps its places."""
    values = np.random.default_rng(1).random(shape, np.float32)
    for each in (values, values.T):
        each.flags.writeable = False
        made = to_float16(each)
        assert made.shape == each.shape
        assert np.array_equal(made, each.astype(np.float16))
