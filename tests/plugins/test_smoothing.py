"""Smoothing of anomaly maps: a Gaussian as published, and one that does not darken the border."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plugins.smoothing import NormalisedBlur, ZeroPaddedBlur, gaussian, reflecting_blur


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


def test_reflecting_blur_in_the_specifications_numbers():
    """CPR T20 to T22: taps, impulses at centre and corner, a box of ones, and a constant map that stays constant."""
    taps = gaussian(4.0, 33)
    assert taps[[16, 17, 32]].tolist() == pytest.approx([0.0997391, 0.0966705, 3.34587e-5], rel=1e-5)
    matrix = reflecting_blur(320, 4.0, 33)

    def blurred(rows, columns):
        plane = torch.zeros(320, 320)
        plane[rows, columns] = 1
        return matrix @ plane @ matrix.T

    centre, corner, box = blurred(160, 160), blurred(0, 0), blurred(slice(100, 120), slice(100, 120))
    assert centre.max().item() == pytest.approx(0.00994789, abs=1e-8)
    assert centre.flatten().topk(512).values.sum().item() == pytest.approx(0.993944, abs=1e-5)
    assert corner.sum().item() == pytest.approx(0.302357, abs=1e-5)
    assert corner[0, 0].item() == pytest.approx(0.00994789, abs=1e-8)
    assert box.max().item() == pytest.approx(0.974486, abs=1e-5)
    assert box.flatten().topk(512).values.sum().item() == pytest.approx(325.1275, abs=1e-3)
    torch.testing.assert_close(matrix @ torch.full((320, 320), 0.7) @ matrix.T, torch.full((320, 320), 0.7))


@pytest.mark.parametrize(
    ("side", "sigma", "size"), [(40, 4.0, 33), (17, 4.0, 33), (9, 1.5, 5), (1, 4.0, 33), (3, 2.0, 9)]
)
def test_reflecting_blur_is_a_reflected_convolution(side, sigma, size):
    """The matrix is numpy's reflect padding and a plain sum, also where the kernel is larger than the map."""
    plane = np.random.default_rng(0).uniform(0, 1, (side, side))
    reach = size // 2
    padded = np.pad(plane, reach, mode="reflect" if side > 1 else "edge")
    taps = gaussian(sigma, size).double().numpy()
    rows = sum(tap * padded[at : at + side] for at, tap in enumerate(taps))
    expected = sum(tap * rows[:, at : at + side] for at, tap in enumerate(taps))
    matrix = reflecting_blur(side, sigma, size).double().numpy()
    np.testing.assert_allclose(matrix @ plane @ matrix.T, expected, rtol=0, atol=1e-6)


def test_reflecting_blur_refuses_an_even_kernel():
    """An even kernel has no middle."""
    with pytest.raises(ValueError, match="odd kernel size, found 4"):
        reflecting_blur(8, 1.0, 4)
