"""Backbones against outputs of the published networks, recorded once; the recordings are no part of the repository."""

from __future__ import annotations

import ast
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from plugins.backbones import BACKBONES, load_backbone, normaliser
from plugins.backbones.checkpoint import keys_of
from plugins.backbones.layers import Trunk

FOLDER = Path(os.environ.get("EDGEAD_REFERENCE") or Path(__file__).parents[3] / "shared" / "reference")
FILLED = ["efficientnet_b0", "densenet201", "resnet18", "wide_resnet50_2", "wide_resnet101_2"]
# Published keys of the part down to the last recorded stage.
TRUNCATED = {
    "efficientnet_b0": ("features.0.", "features.1.", "features.2.", "features.3."),
    "densenet201": (
        "features.conv0.",
        "features.norm0.",
        "features.denseblock1.",
        "features.transition1.",
        "features.denseblock2.",
    ),
    "resnet18": ("conv1.", "bn1.", "layer1.", "layer2.", "layer3."),
    "wide_resnet50_2": ("conv1.", "bn1.", "layer1.", "layer2.", "layer3."),
    "wide_resnet101_2": ("conv1.", "bn1.", "layer1.", "layer2.", "layer3."),
}


def recording(name):
    """Return the recorded arrays of a network by key; skip where they are not."""
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no recordings at {FOLDER}: set EDGEAD_REFERENCE")
    return load_file(path)


def published_shapes(name):
    """Return shape by key of the network's whole published state dict."""
    lines = (FOLDER / f"{name}.keys.txt").read_text(encoding="utf-8").splitlines()
    return {key: ast.literal_eval(shape) for key, _, shape in (line.partition(" ") for line in lines)}


def drawn(seed, shape):
    """Return the standard normal numbers the recordings were made with, float32."""
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)


def filled(key, shape):
    """Return the tensor the recording rule puts under a key."""
    x = drawn(zlib.crc32(key.encode()), shape)
    if key.endswith("running_var"):
        x = 0.5 + np.abs(x)
    elif key.endswith(("running_mean", "bias")):
        x = 0.1 * x
    elif len(shape) == 1:
        x = 0.35 + 0.05 * x
    else:
        x = x * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return torch.from_numpy(x)


def needed(name, stages):
    """Return (published key, shape) of every tensor the truncated network asks for."""
    with torch.device("meta"):
        from plugins.backbones import _segments

        return dict(keys_of(Trunk(_segments(name), stages)).values())


def stages_of(arrays):
    """Return the recorded stages."""
    return sorted(key.removesuffix(".shape") for key in arrays if key.endswith(".shape"))


@pytest.mark.parametrize("fold", [False, True])
def test_lite0_with_its_published_weights_gives_the_recorded_maps(fold):
    """Pixels of an odd size through the packaged weights match the published network to 1e-4 at every stage."""
    arrays = recording("efficientnet_lite0")
    stages = ["stage0", "stage1", "stage2", "stage3"]
    maps = load_backbone("efficientnet_lite0", stages, fold=fold)(
        normaliser("efficientnet_lite0")(torch.from_numpy(arrays["pixels"]))
    )
    for stage, found in zip(stages, maps, strict=True):
        assert found.shape == arrays[stage].shape
        assert np.abs(found.numpy() - arrays[stage]).max() < 1e-4 * np.abs(arrays[stage]).max()


@pytest.mark.parametrize("name", FILLED)
def test_filled_network_gives_the_recorded_maps(name):
    """With the recording's weights every truncated stage matches the published architecture to 1e-4, folded."""
    arrays = recording(name)
    stages = stages_of(arrays)
    state = {key: filled(key, shape) for key, shape in needed(name, stages).items()}
    maps = load_backbone(name, stages, state)(torch.from_numpy(drawn(20260101, (1, 3, 96, 128))))
    for stage, tensor in zip(stages, maps, strict=True):
        found = tensor.numpy()
        sample, mean = arrays[f"{stage}.sample"], arrays[f"{stage}.channel_mean"]
        assert found.shape == tuple(arrays[f"{stage}.shape"])
        assert np.abs(found.ravel()[:: max(1, found.size // 4096)] - sample).max() < 1e-4 * np.abs(sample).max()
        assert np.abs(found.mean((0, 2, 3)) - mean).max() < 1e-4 * np.abs(mean).max()


@pytest.mark.parametrize("name", FILLED)
def test_needed_keys_are_the_published_ones_of_the_truncated_part(name):
    """Every needed key is published with that shape, and no published tensor of the truncated part is left out."""
    arrays = recording(name)
    asked, shapes = needed(name, stages_of(arrays)), published_shapes(name)
    assert {key: tuple(shape) for key, shape in asked.items()} == {
        key: shape
        for key, shape in shapes.items()
        if key.startswith(TRUNCATED[name]) and not key.endswith("num_batches_tracked")
    }


def test_every_stage_of_the_whole_resnet18_is_published():
    """The fourth stage, which the recordings leave out, asks for published keys and shapes too."""
    recording("resnet18")
    shapes = published_shapes("resnet18")
    for key, shape in needed("resnet18", ["layer4"]).items():
        assert shapes[key] == tuple(shape)


def test_every_backbone_is_recorded():
    """No backbone of the table goes without a recording, but VGG-16, which is tested against its plain definition."""
    assert set(BACKBONES) == {"efficientnet_lite0", "vgg16", *FILLED}
