"""The lint names what TensorRT refuses or converts wrongly, and lets what was verified to convert pass."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgead import DetectorContext
from plugins.hetmm import Hetmm
from plugins.hetmm.settings import HetmmSettings
from runtime.engines.engine import export
from runtime.engines.lint import lint
from runtime.frame import Frame
from runtime.testing.product import SimulatedProduct


class Operation(nn.Module):
    """One operation on an image and on integers."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, frames, numbers):
        """Return the operation's value."""
        return self.operation(frames, numbers)


FRAMES = torch.zeros((1, 40, 40, 3), dtype=torch.uint8)
NUMBERS = torch.arange(8).reshape(2, 4)


def findings(operation):
    """Return what the lint says of one operation."""
    return lint(torch.export.export(Operation(operation), (FRAMES, NUMBERS), strict=True))


def planes(frames):
    """Return the frame as float planes, as every detector here makes them."""
    return frames.to(torch.float32).permute(0, 3, 1, 2)


WRONG = {
    "adaptive pool that does not divide": lambda f, _: functional.adaptive_avg_pool2d(planes(f), 7),
    "integer division": lambda _, n: n / 7,
    "log_softmax": lambda f, _: functional.log_softmax(planes(f), 1),
    "log1p": lambda f, _: planes(f).log1p(),
    "expm1": lambda f, _: planes(f).expm1(),
    "fractional scale": lambda f, _: functional.interpolate(planes(f), scale_factor=1.7, mode="bilinear"),
    "fractional nearest": lambda f, _: functional.interpolate(planes(f), scale_factor=1.7),
}
REFUSED = {
    "antialias": lambda f, _: functional.interpolate(planes(f), size=(9, 9), mode="bilinear", antialias=True),
    "uint8 permute": lambda f, _: f.permute(0, 3, 1, 2).float(),
    "uint8 slice": lambda f, _: f[:, 1:].float(),
    "uint8 flatten": lambda f, _: f.flatten(1, 2).float(),
    "uint8 index_select": lambda f, n: f.index_select(1, n[0]).float(),
    "ceil_mode": lambda f, _: functional.max_pool2d(planes(f), 3, 2, ceil_mode=True),
    "dilated pool": lambda f, _: functional.max_pool2d(planes(f), 3, 1, dilation=2),
    "divisor": lambda f, _: functional.avg_pool2d(planes(f), 3, divisor_override=2),
    "average ceil_mode": lambda f, _: functional.avg_pool2d(planes(f), 3, ceil_mode=True),
    "one-dimensional topk": lambda f, _: planes(f).flatten().topk(3).values,
    "topk of too many": lambda f, _: planes(f).flatten(1).topk(4000).values,
    "sort": lambda f, _: planes(f).flatten(1).sort().values,
    "max with index": lambda f, _: planes(f).max(1),
    "cumsum": lambda f, _: planes(f).cumsum(1),
    "isfinite": lambda f, _: planes(f).isfinite(),
    "median": lambda f, _: planes(f).flatten(1).median(1).values,
    "quantile": lambda f, _: planes(f).flatten(1).quantile(0.5, 1),
    "baddbmm": lambda f, _: torch.baddbmm(planes(f)[0], planes(f)[0], planes(f)[0]),
    "adaptive max pool": lambda f, _: functional.adaptive_max_pool2d(planes(f), 8),
    "searchsorted": lambda _, n: torch.searchsorted(n, n),
    "float64": lambda f, _: planes(f).double().sum(),
    "cast to uint8": lambda f, _: planes(f).to(torch.uint8),
}
FINE = {
    "adaptive pool that divides": lambda f, _: functional.adaptive_avg_pool2d(planes(f), 8),
    "global pool": lambda f, _: functional.adaptive_avg_pool2d(planes(f), 1),
    "float division": lambda _, n: n.float() / 7,
    "floor division": lambda _, n: n // 7,
    "resize by size": lambda f, _: functional.interpolate(planes(f), size=(9, 9), mode="bilinear"),
    "whole scale": lambda f, _: functional.interpolate(planes(f), scale_factor=2, mode="bilinear"),
    "plain pools": lambda f, _: functional.max_pool2d(functional.avg_pool2d(planes(f), 3, 1, 1), 2, 2, 1),
    "topk": lambda f, _: planes(f).flatten(1).topk(16).values.mean(1),
    "max alone": lambda f, _: planes(f).max(1)[0],
    "amax and argmax": lambda f, _: (planes(f).amax(1), planes(f).argmax(1)),
    "normalise": lambda f, _: functional.normalize(planes(f)),
    "integers": lambda _, n: n * 2 + 1,
    "relu6": lambda f, _: functional.relu6(planes(f), inplace=True),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_converts_wrongly_is_named(what):
    """An operation whose converted form gives other numbers is found, marked wrong, with what to write instead."""
    (found,) = findings(WRONG[what])
    assert found.is_wrong
    assert "converts wrongly" in str(found)
    assert "instead" in str(found)


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_engine_is_named(what):
    """An operation TensorRT refuses is found, and not called wrong."""
    found = findings(REFUSED[what])
    assert found
    assert not any(each.is_wrong for each in found)


@pytest.mark.parametrize("what", FINE)
def test_what_was_verified_passes(what):
    """Operations that convert to the same numbers are not complained about."""
    assert findings(FINE[what]) == []


class PlantedGraph(nn.Module):
    """A detector's graph with one operation more."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def forward(self, frames, rows):
        """Return the logarithm of the map, and the score."""
        anomaly_map, score = self.graph(frames, rows)
        return anomaly_map.log1p(), score


def test_a_planted_operation_is_found_in_a_whole_detector(spot):
    """One wrong operation among a detector's own is found, and nothing else of it."""

    class Planted(spot.Spot):
        def graph(self, content, frame_shape):
            return PlantedGraph(super().graph(content, frame_shape))

    content = spot.content_of(2)
    plain = {each.operation for each in lint(export(spot.Spot(), content, (32, 32, 3)))}
    planted = {each.operation for each in lint(export(Planted(), content, (32, 32, 3)))}
    assert planted - plain == {"aten.log1p.default"}


def test_hetmm_is_free_of_wrong_conversions():
    """Nothing in HETMM's whole program is converted into something else by TensorRT."""
    product = SimulatedProduct(seed=0, size=(128, 128))
    frames = [Frame(product.draw(index).image, str(index)) for index in range(2)]
    settings = HetmmSettings(image_size=64)
    content = Hetmm().calibrate(frames, settings, DetectorContext())
    found = lint(export(Hetmm(), content, (128, 128, 3)))
    assert [str(each) for each in found if each.is_wrong] == []
