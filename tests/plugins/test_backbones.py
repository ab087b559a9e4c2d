"""Backbones: the published function, reached by the published keys, in a graph that exports whole."""

from __future__ import annotations

import io
import random
import subprocess
import sys

import pytest
import torch

from edgead import ConfigError, WeightsError
from plugins.backbones import BACKBONES, WEIGHTS, backbone_of, load_backbone, normaliser, random_backbone
from plugins.backbones.checkpoint import read
from plugins.backbones.fold import fold_batchnorm
from plugins.backbones.layers import Conv, ConvNorm, Norm, Trunk, same_padding


def random_input(height=64, width=96, seed=0):
    """Return a normalised frame batch (1, 3, height, width), float32."""
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def relative(found, expected):
    """Return the largest difference in units of the largest expected magnitude."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def shallow(name):
    """Return the stages of a backbone, without the ones that alone have most of its 25 or 83 M parameters."""
    return [s for s in backbone_of(name).stages if not (name.startswith("wide_") and s.startswith("layer3"))]


def published(name, stages):
    """Return random tensors under the published keys of the truncated part, as a checkpoint file would hold them."""
    trunk = random_backbone(name, stages, seed=1, fold=False)
    return {
        f"{part.key}.{key}": value
        for part in trunk.modules()
        if isinstance(part, Conv | Norm)
        for key, value in part.state_dict().items()
    }


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 96), (97, 130)])
def test_maps_have_the_channels_and_strides_of_the_table(name, size):
    """Every tap has the channels and strides of the table, for even and odd sizes."""
    stages = shallow(name)
    maps = random_backbone(name, stages, seed=0)(random_input(*size))
    for stage, found in zip(stages, maps, strict=True):
        channels, stride = backbone_of(name).stages[stage]
        expected = [-(-s // stride) for s in size]
        if stage == "features.denseblock2":  # the transition pools pairs without padding: an odd last row is dropped
            expected = [-(-s // 4) // 2 for s in size]
        if name == "vgg16":  # its poolings drop an odd last row
            expected = [s // stride for s in size]
        assert tuple(found.shape) == (1, channels, *expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_strict_export_is_bit_equal_to_eager(name):
    """torch.export (strict) takes every backbone whole, with the pixels' normalisation, and changes no bit."""
    graph = torch.nn.Sequential(normaliser(name), random_backbone(name, shallow(name), seed=0))
    pixels = torch.randint(0, 256, (1, 3, 65, 98), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(graph, (pixels,), strict=True)
    for exported, eager in zip(program.module()(pixels), graph(pixels), strict=True):
        assert torch.equal(exported, eager)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_stage_is_the_relu_of_its_pre_tap_bit_for_bit(name):
    """The tap before the last ReLU is signed, and its ReLU is the published stage output exactly."""
    backbone = random_backbone(name, ["layer1", "layer1.pre", "layer2.pre", "layer2"], seed=0)
    layer1, layer1_pre, layer2_pre, layer2 = backbone(random_input())
    for pre, post in ((layer1_pre, layer1), (layer2_pre, layer2)):
        assert pre.min() < 0
        assert torch.equal(pre.relu(), post)


@pytest.mark.parametrize("name", BACKBONES)
def test_folding_keeps_the_function_to_1e_5(name):
    """Folded and unfolded maps agree to 1e-5 relative, and no foldable norm is left."""
    stages = shallow(name)
    plain, folded = (random_backbone(name, stages, seed=3, fold=fold) for fold in (False, True))
    for found, expected in zip(folded(random_input()), plain(random_input()), strict=True):
        assert relative(found, expected) < 1e-5
    assert not any(isinstance(p.norm, Norm) for p in folded.modules() if isinstance(p, ConvNorm))


def test_folding_keeps_a_convolution_bias():
    """A bias the convolution already has is scaled with it."""
    part = ConvNorm(Conv("c", (3, 4), 3, bias=True), Norm("n", 4)).eval()
    part.norm.running_mean.uniform_(-1, 1)
    part.norm.running_var.uniform_(0.5, 2)
    expected = part(random_input())
    assert relative(fold_batchnorm(part)(random_input()), expected) < 1e-5


def test_training_mode_is_not_folded():
    """Folding a norm whose statistics still move is refused."""
    with pytest.raises(ValueError, match="eval mode"):
        fold_batchnorm(ConvNorm(Conv("c", (3, 4)), Norm("n", 4)))


def test_taps_come_in_the_order_asked_and_nothing_beyond_is_built():
    """The tuple follows the request, and the network ends at the last tap."""
    backbone = random_backbone("resnet18", ["layer2", "layer1"], seed=0)
    assert [m.shape[1] for m in backbone(random_input())] == [128, 64]
    assert backbone.names[-1] == "layer2"
    assert sum(p.numel() for p in backbone.parameters()) < 700_000


def test_backbone_stays_frozen_inside_a_model_that_trains():
    """A surrounding train() moves no statistics, and no parameter asks for a gradient."""
    backbone = random_backbone("densenet201", ["features.denseblock1"], seed=0, fold=False)
    model = torch.nn.Sequential(backbone, torch.nn.Flatten()).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(random_input())
    assert model.training
    assert not any(module.training for module in backbone.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "densenet201", "resnet18"])
def test_channels_last_is_kept_and_changes_no_value(name):
    """In channels-last memory the same maps come out, still channels-last."""
    stages = list(backbone_of(name).stages)[:2]
    expected = random_backbone(name, stages, seed=0)(random_input())
    backbone = random_backbone(name, stages, seed=0).to(memory_format=torch.channels_last)
    found = backbone(random_input().to(memory_format=torch.channels_last))
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < 1e-5
        assert one.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", BACKBONES)
def test_normaliser_follows_the_published_formula(name):
    """Pixels become (pixel - mean) / std per RGB channel, from uint8 as from float, and grey is replicated."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in published_statistics(name))
    expected = (pixels.double() - mean) / std
    for given in (pixels, pixels.float(), pixels.expand(1, 3, 16, 16)):
        found = normaliser(name)(given)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 1e-6


def published_statistics(name):
    """Return mean and std over 0..255 as the publishers state them, written independently of the table."""
    if name == "efficientnet_lite0":
        return (127.0,) * 3, (128.0,) * 3
    return (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_is_the_least_that_reaches_every_position(kernel):
    """TensorFlow's rule: ceil(size / stride) outputs, no row of padding too many, the odd one at the end."""
    for size in range(kernel, 20):
        before, after = same_padding(size, kernel, 2)
        assert (size + before + after - kernel) // 2 + 1 == -(-size // 2)
        assert (size + before + after - 1 - kernel) // 2 + 1 < -(-size // 2) or before + after == 0
        assert after - before in (0, 1)


@pytest.mark.parametrize("stages", [[], ["layer9"], ["layer1", "layer1"]])
def test_unfit_stages_are_refused_with_the_known_ones(stages):
    """No stage, an unknown one, or one twice: an error that lists what there is."""
    with pytest.raises(ConfigError, match=r"layer1\.pre, layer1, layer2\.pre"):
        load_backbone("resnet18", stages)


def test_unknown_backbone_is_refused_with_the_known_ones():
    """A backbone we do not have is an error that lists those we have."""
    with pytest.raises(ConfigError, match="efficientnet_lite0"):
        load_backbone("resnet19", ["layer1"])


def test_missing_weights_are_one_line_that_tells_what_to_do(tmp_path, monkeypatch):
    """Without the file, the error names file, source and command."""
    monkeypatch.setenv("EDGEAD_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth.*`edgead weights fetch resnet18`"):
        load_backbone("resnet18", ["layer1"])


@pytest.mark.parametrize("zipped", [True, False])
def test_published_file_is_read_by_key(tmp_path, zipped):
    """Both formats torch ever wrote load, extra keys are ignored, and the maps are those of the tensors."""
    state = published("resnet18", ["layer1"]) | {"fc.weight": torch.zeros(2)}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    (found,) = load_backbone("resnet18", ["layer1"], tmp_path / "w.pth", fold=False)(random_input())
    (expected,) = random_backbone("resnet18", ["layer1"], seed=1, fold=False)(random_input())
    assert torch.equal(found, expected)


def test_loaded_backbone_outlives_its_file(tmp_path):
    """Emptying the file after loading does not pull the tensors away."""
    torch.save(published("resnet18", ["layer1"]), tmp_path / "w.pth")
    backbone = load_backbone("resnet18", ["layer1"], tmp_path / "w.pth", fold=False)
    (tmp_path / "w.pth").write_bytes(b"")
    assert torch.isfinite(backbone(random_input())[0]).all()


def test_half_precision_files_become_float32():
    """The published wide ResNet files store halves; the backbone computes in float32."""
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in published("resnet18", ["layer1"]).items()
    }
    backbone = load_backbone("resnet18", ["layer1"], state)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_distributed_densenet_spelling_is_understood():
    """The file spells "norm.1" where the network says "norm1"; both load, older files without counters too."""
    stages = ["features.denseblock1"]
    state = published("densenet201", stages)
    spelt = {}
    for key, value in state.items():
        if "denselayer" in key:
            for digit in "12":
                key = key.replace(f"norm{digit}.", f"norm.{digit}.").replace(f"conv{digit}.", f"conv.{digit}.")  # noqa: PLW2901
        if not key.endswith("num_batches_tracked"):
            spelt[key] = value
    assert not set(spelt) >= set(state)
    found = load_backbone("densenet201", stages, spelt)(random_input())[0]
    assert torch.equal(found, load_backbone("densenet201", stages, state)(random_input())[0])


def test_file_of_another_network_is_refused_by_key_and_shape():
    """A missing key and a wrong shape are both named, with the file they were expected in."""
    state = published("resnet18", ["layer1"])
    del state["bn1.weight"]
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(WeightsError) as raised:
        load_backbone("resnet18", ["layer1"], state)
    text = str(raised.value)
    assert "resnet18-f37072fd.pth" in text
    assert "bn1.weight: expected (64,), found None" in text
    assert "conv1.weight: expected (64, 3, 7, 7), found (64, 3, 3, 3)" in text


class Planted:
    """What a malicious file carries: unpickling it would call a function."""

    def __reduce__(self):
        """Ask the unpickler to call ``print``."""
        return print, ("unpickled code ran",)


def saved(content):
    """Return what torch.save writes for an object."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", saved(Planted()), saved([1, 2]), saved({"a": 1}), saved({"a": torch.zeros(9)})[:-40]],
    ids=["empty", "text", "code", "list", "numbers", "cut"],
)
def test_file_that_is_no_state_dict_is_refused(tmp_path, capsys, content):
    """Damaged, foreign and malicious files are one of our errors, and nothing in them runs."""
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pth: expected a"):
        load_backbone("resnet18", ["layer1"], tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore")  # torch warns of protocols it does not know; the outcome is what counts
@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_gives_a_weights_error_or_tensors(tmp_path, zipped):
    """Whatever bytes of a file are cut or flipped, no foreign exception comes out of reading it."""
    torch.save({"a": torch.arange(40.0)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    good, rng, refused = (tmp_path / "w.pth").read_bytes(), random.Random(0), 0
    for case in range(150):
        damaged = bytearray(good[: rng.randrange(len(good))] if case % 3 == 0 else good)
        for _ in range(min(len(damaged), 8 * (case % 3))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (tmp_path / "w.pth").write_bytes(damaged)
        try:
            assert all(isinstance(value, torch.Tensor) for value in read(tmp_path / "w.pth").values())
        except WeightsError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
            refused += 1
    assert refused > 50


def test_table_is_light_and_complete():
    """Importing the table loads no torch, and every backbone's weight file is registered under its name."""
    check = "import sys, plugins.backbones; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
    assert [w.name for w in WEIGHTS] == list(BACKBONES)
    assert all(w.size and w.url.startswith("https://") and "ImageNet" in w.licence for w in WEIGHTS)


def test_random_backbone_is_reproducible():
    """One seed gives one backbone, another seed another."""
    one, same, other = (random_backbone("resnet18", ["layer1"], seed)(random_input())[0] for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert isinstance(random_backbone("resnet18", ["layer1"], 5), Trunk)
