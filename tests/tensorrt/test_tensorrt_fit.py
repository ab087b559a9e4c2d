"""Fitting a program to TensorRT: other operations, the same answers, and nothing else touched."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from plugins.resize import PlainResize, Resize
from runtime.engines.lint import lint
from runtime.engines.tensorrt.fit import fit, resize_matrix

FRAMES = torch.randint(0, 256, (1, 36, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Graph(nn.Module):
    """One function of a frame."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, frames):
        """Return the function's value."""
        return self.function(frames)


def exported(module):
    """Return the program of a module of frames."""
    return torch.export.export(module, (FRAMES,), strict=True)


def test_a_plain_resize_keeps_its_bits():
    """Gathering float32 instead of uint8 gives the very same values, and the lint has nothing left to say."""
    program = exported(PlainResize((36, 48, 3), 20))
    fitted = fit(program)
    assert [each.why for each in lint(program)] == ["uint8 is the format of an input only"] * len(lint(program)) != []
    assert lint(fitted) == []
    assert torch.equal(fitted.module()(FRAMES), program.module()(FRAMES))


@pytest.mark.parametrize("size", [20, 36, 50])
def test_an_antialiased_resize_becomes_two_products(size):
    """Smaller, the same and larger: every grey level is the operator's, or one off where it lies half-way."""
    program = exported(Resize((36, 48, 3), size))
    fitted = fit(program)
    assert lint(program) != []
    assert lint(fitted) == []
    found, expected = fitted.module()(FRAMES), program.module()(FRAMES)
    assert (found - expected).abs().max() <= 1
    assert (found != expected).float().mean() < 1e-2  # 3 to 4 pixels: many lie half-way


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("target", [7, 31, 64])
def test_the_matrices_are_the_operators(mode, target):
    """R X K^T is torch's antialiased resize of X to rounding, for each axis on its own size."""
    image = torch.rand(1, 2, 31, 45)
    rows, columns = resize_matrix(31, target, mode), resize_matrix(45, target + 3, mode)
    expected = functional.interpolate(image, size=(target, target + 3), mode=mode, antialias=True)
    torch.testing.assert_close(rows @ image @ columns.T, expected, rtol=1e-5, atol=1e-5)


def test_a_program_that_fits_stays_as_it_is():
    """Where nothing needs to be said otherwise, the program itself is returned."""
    program = exported(Graph(lambda frames: frames.float().permute(0, 3, 1, 2).mean((2, 3))))
    assert fit(program) is program


@pytest.mark.parametrize(
    "function",
    [
        lambda frames: (frames.permute(0, 3, 1, 2) + 200).float(),
        lambda frames: frames.flip(1),
        lambda frames: frames.flip(1).to(torch.int8).float(),
    ],
    ids=["arithmetic that wraps", "returned as uint8", "a cast that wraps"],
)
def test_arithmetic_in_uint8_is_left_to_the_lint(function):
    """What is not a mere move of uint8 means something else in float32: it is not rewritten, and the lint names it."""
    program = exported(Graph(function))
    fitted = fit(program)
    assert fitted is program
    assert lint(fitted) != []


def test_batches_are_fitted_too():
    """A program of several frames is rewritten as one of a single frame is."""
    frames = FRAMES.repeat(3, 1, 1, 1)
    program = torch.export.export(Resize((36, 48, 3), 20), (frames,), strict=True)
    found = fit(program).module()(frames)
    assert found.shape == (3, 3, 20, 20)
    assert (found - program.module()(frames)).abs().max() <= 1
