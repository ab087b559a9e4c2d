"""Smoothing of anomaly maps: a Gaussian as published, and one that does not darken the border."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plugins.smoothing import NormalisedBlur, ZeroPaddedBlur, gaussian


@pytest.mark.parametrize(
    ("sigma", "size", "edge", "corner"), [(4.1, 39, 0.548652, 0.301019), (15, 61, 0.513881, 0.264073)]
)
def test_border_weights_are_those_of_the_specification(sigma, size, edge, corner):
    """I-11: what a zero-padded blur makes of a constant 1, and that the other blur divides it out to 1 everywhere."""
    [darkened] = ZeroPaddedBlur(sigma, size)(torch.ones(1, 256, 256))
    assert darkened[128, 128].item() == pytest.approx(1, abs=1e-6)
    assert darkened[0, 128].item() == pytest.approx(edge, abs=1e-6)
    assert darkened[128, 255].item() == pytest.approx(edge, abs=1e-6)
    assert darkened[255, 0].item() == pytest.approx(corner, abs=1e-6)
    blur = NormalisedBlur(256, 256, sigma, size)
    torch.testing.assert_close(blur(torch.ones(2, 256, 256)), torch.ones(2, 256, 256), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "sigma", "size"), [(20, 23, 2.0, 9), (5, 7, 4.0, 33), (9, 9, 0.4, 1)])
def test_blur_is_the_two_dimensional_definition(atmm, height, width, sigma, size):
    """The separable form equals the plain sum over the kernel, also where the kernel is larger than the map."""
    maps = np.random.default_rng(0).uniform(0, 2, (2, height, width)).astype(np.float32)
    for blur, normalised in ((ZeroPaddedBlur(sigma, size), False), (NormalisedBlur(height, width, sigma, size), True)):
        for found, plane in zip(blur(torch.from_numpy(maps)).numpy(), maps, strict=True):
            expected = atmm.blur(plane.astype(float), sigma, size, normalised=normalised)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_even_kernel_is_refused():
    """An even kernel has no middle and would shift the map by half a pixel."""
    with pytest.raises(ValueError, match="odd kernel size, found 4"):
        NormalisedBlur(8, 8, 1.0, 4)


def test_taps_sum_to_one():
    """The kernel is symmetric and keeps the level of a map."""
    taps = gaussian(4.0, 33)
    assert taps.sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(taps, taps.flip(0))
