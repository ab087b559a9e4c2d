"""HETMM's settings: what is refused, in which words; and the layers of every backbone."""

from __future__ import annotations

import pytest
import torch

from edgead import ConfigError, DetectorContext
from plugins.backbones import BACKBONES, backbone_of, random_backbone
from plugins.hetmm import Hetmm, graph
from plugins.hetmm.graph import Features, feature_shapes, share
from plugins.hetmm.settings import DEFAULT_LAYERS, HetmmSettings, halves


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"windows": [[4, 3], [3, 3], [3, 3]]}, r"expected odd sides, or 0 for one direction, found \[4, 3\]"),
        ({"windows": [[5, 3], [3, 2], [3, 3]]}, r"expected odd sides, or 0 for one direction, found \[3, 2\]"),
        ({"windows": [[5, 3], [0, 0], [3, 3]]}, r"expected odd sides, or 0 for one direction, found \[0, 0\]"),
        ({"windows": [[5, 3]]}, "windows: expected one entry for each of 3 layers, found 1"),
        ({"alpha": [0.5, 0.5]}, "alpha: expected one entry for each of 3 layers, found 2"),
        ({"weight": [1, 1, 1, 1]}, "weight: expected one entry for each of 3 layers, found 4"),
        ({"alpha": [0.5, 0.5, 1.5]}, "less than or equal to 1"),
        ({"weight": [1, 0, 1]}, "greater than 0"),
        ({"blur_kernel": 8}, "blur_kernel: expected an odd number, found 8"),
        ({"backbone": "resnet34"}, "backbone: expected one of efficientnet_lite0, .*, found 'resnet34'"),
        ({"image_size": 16}, "greater than or equal to 32"),
        ({"colour": "blue"}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused_by_a_sentence(given, sentence):
    """Every value that cannot work is refused before any image is read, saying what was expected."""
    with pytest.raises(ValueError, match=sentence):
        HetmmSettings(**given)


def test_unknown_layer_is_refused_before_any_work(frames):
    """A layer the backbone has not is an error that lists the ones it has."""
    settings = HetmmSettings(image_size=64, layers=("stage9",))
    with pytest.raises(ConfigError, match=r"expected different stages of .*stage1.*found.*stage9"):
        Hetmm().calibrate(frames[:1], settings, DetectorContext())


def test_resolved_settings_survive_the_template():
    """Settings written to JSON and read back are equal, so a stored template builds the graph it was made with."""
    settings = HetmmSettings(layers=("stage1",), windows=((5, 0),), alpha=(0.5,), weight=(1.0,))
    assert settings.resolved
    assert HetmmSettings.model_validate_json(settings.model_dump_json()) == settings
    assert not HetmmSettings().resolved


def test_direction_that_is_off_leaves_everything_to_the_other():
    """A side of 0 turns a direction off, whatever its share says; 1 is a window of one pixel."""
    assert [halves(window) for window in ((13, 3), (1, 0), (0, 1))] == [(6, 1), (0, None), (None, 0)]
    settings = HetmmSettings(windows=((5, 3), (5, 0), (0, 3)), alpha=(0.25, 0.25, 0.25), weight=(1, 2, 3))
    assert [share(settings, layer) for layer in range(3)] == [(0.25, 0.75), (2, 0), (0, 3)]


def test_windows_still_to_be_chosen_build_no_graph():
    """A graph is never built on "auto": the message says that calibration chooses."""
    with pytest.raises(ConfigError, match="expected windows in numbers, found 'default'"):
        graph.Matching(HetmmSettings(alpha=(0.5, 0.5, 0.5), weight=(1, 1, 1)))


def test_every_backbone_has_its_default_layers():
    """The default layers exist, finest first; residual networks are tapped before the last ReLU (I-1)."""
    # vgg16 is MSPBA's: its poolings drop odd rows, so its maps are not of the shapes a bank is laid out for.
    assert DEFAULT_LAYERS.keys() == BACKBONES.keys() - {"vgg16"}
    for name, layers in DEFAULT_LAYERS.items():
        strides = [backbone_of(name).stages[layer].stride for layer in layers]
        assert strides == [4, 8, 16][: len(layers)]
        assert all(layer.endswith(".pre") for layer in layers) == ("resnet" in name)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0", "densenet201", "resnet18"])
def test_features_are_unit_vectors_of_the_promised_shapes(monkeypatch, name):
    """For any image size the maps have the shapes the bank is laid out for, and every vector has length 1."""
    monkeypatch.setattr(graph, "load_backbone", lambda backbone, layers: random_backbone(backbone, layers, seed=0))
    features = Features(HetmmSettings(backbone=name))
    for size in (32, 33, 36, 70):
        frames = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0)).float()
        with torch.inference_mode():
            maps = features(frames)
        expected = feature_shapes(HetmmSettings(backbone=name, image_size=size))
        assert [tuple(each.shape[1:]) for each in maps] == expected
        for each in maps:
            torch.testing.assert_close(each.norm(dim=1), torch.ones_like(each[:, 0]), rtol=0, atol=1e-5)
    if name == "resnet18":
        assert all(each.min() < 0 for each in maps)
