"""MSPBA's networks and losses: sizes, examples, float64 parity, and dense embedding equal to cropping."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from plugins.backbones import load_backbone, normaliser, random_backbone
from plugins.backbones.layers import Conv, Trunk
from plugins.mspba.embedding import DenseEmbedding, PatchEmbedding, run_to
from plugins.mspba.encoders import PatchHead, PooledHead, PositionClassifier, column_normalised, heads_of
from plugins.mspba.losses import cluster_loss, has_collapsed, position_loss, similarity_loss
from plugins.mspba.settings import MspbaSettings


def arrays(module):
    """Return a module's state as arrays."""
    return {name: each.numpy() for name, each in module.state_dict().items()}


def normal(*shape, seed=0):
    """Return standard normal numbers, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def heads():
    """Return VGG's heads, seeded."""
    torch.manual_seed(0)
    return heads_of(MspbaSettings(backbone="vgg16", train="full")).requires_grad_(requires_grad=False)


def test_heads_have_the_published_sizes(heads):
    """M-2: parameters of the three heads and the classifier, maps of a patch, embeddings in (-1, 1)."""
    scales = MspbaSettings(backbone="vgg16").scales
    assert [sum(p.numel() for p in head.parameters()) for head in heads] == [692_736, 1_000_064, 248_096]
    assert sum(p.numel() for p in PositionClassifier(64).parameters()) == 179_084
    windows = [(512, 4), (256, 8), (128, 8)]
    assert [(scale.channels, scale.window) for scale in scales] == windows
    for head, (channels, window) in zip(heads, windows, strict=True):
        found = head(3 * normal(2, channels, window, window))
        assert found.shape == (2, 64, 1, 1)
        assert 0 < found.abs().max() < 1
    sides = [4, 3, 2, 1, 1]
    x = normal(1, 512, 4, 4)
    for layer in heads[0]:
        x = layer(x)
        assert x.shape[2] in sides


@pytest.mark.parametrize("backbone", ["vgg16", "efficientnet_lite0"])
def test_heads_are_those_of_the_definition(mspba, backbone):
    """Every scale's embedding of one patch agrees with float64 to 1e-5, for both backbones' windows."""
    torch.manual_seed(1)
    settings = MspbaSettings(backbone=backbone, train="full")
    for scale, head in zip(settings.scales, heads_of(settings), strict=True):
        window = normal(1, scale.channels, scale.window, scale.window)
        expected = mspba.head(arrays(head), window[0].numpy())
        np.testing.assert_allclose(head(window)[0, :, 0, 0].detach(), expected, atol=1e-5)


@pytest.mark.parametrize("fixed_last", [False, True])
def test_classifier_is_that_of_the_definition(mspba, fixed_last):
    """Logits of both forms agree with float64."""
    torch.manual_seed(2)
    classifier = PositionClassifier(64, fixed_last=fixed_last)
    first, second = normal(2, 3, 64, seed=3).tanh()
    expected = [
        mspba.classify(arrays(classifier), a, b, fixed_last=fixed_last)
        for a, b in zip(first.numpy(), second.numpy(), strict=True)
    ]
    np.testing.assert_allclose(classifier(first, second).detach(), expected, atol=1e-5)


def test_untrained_classifier_is_at_chance():
    """M-8: with embeddings alike the loss is near ln 12."""
    torch.manual_seed(4)
    logits = PositionClassifier(64)(torch.zeros(12, 64), torch.zeros(12, 64))
    assert position_loss(logits, torch.arange(12)).item() == pytest.approx(math.log(12), abs=0.2)


def test_published_classifier_learns_no_last_weight():
    """M-9: columns have norm 1 and get no gradient, the bias does; otherwise both do."""
    found = column_normalised(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.0], [0.8, 1.0]]))
    for fixed_last in (True, False):
        classifier = PositionClassifier(8, fixed_last=fixed_last)
        position_loss(classifier(normal(4, 8), normal(4, 8, seed=1)), torch.arange(4)).backward()
        assert (classifier.last.weight.grad is None) is fixed_last
        assert classifier.last.bias.grad.abs().max() > 0


def test_similarity_example():
    """M-5: the loss of the specification's three vectors."""
    vectors = [torch.tensor([each]) for each in ([1.0, 0, 0], [0.8, 0.6, 0], [0.0, 1, 0])]
    assert float(similarity_loss(*vectors)) == pytest.approx(-0.167544, abs=1e-6)


def test_losses_are_those_of_the_definition(mspba):
    """Position and similarity losses agree with float64; alike vectors have a finite gradient."""
    logits, directions = normal(6, 12), np.array([0, 11, 3, 3, 7, 1])
    found = float(position_loss(logits, torch.from_numpy(directions)))
    assert found == pytest.approx(mspba.position_loss(logits.double().numpy(), directions), rel=1e-6)
    triplet = normal(3, 5, 64, seed=5).tanh()
    assert float(similarity_loss(*triplet)) == pytest.approx(mspba.similarity_loss(*triplet.numpy()), rel=1e-5)
    anchor = triplet[0].clone().requires_grad_()
    similarity_loss(anchor, triplet[0], triplet[2]).backward()
    assert anchor.grad.isfinite().all()


def test_cluster_term_pulls_embeddings_and_no_centre():
    """The mean squared distance to the nearest centre, with a gradient to the embeddings alone."""
    embeddings, centres = torch.tensor([[0.0, 1.0], [5.0, 5.0]], requires_grad=True), torch.tensor([[0.0, 0], [5, 4]])
    centres.requires_grad_()
    loss = cluster_loss(embeddings, centres)
    loss.backward()
    assert loss.item() == 1.0
    torch.testing.assert_close(embeddings.grad, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert centres.grad is None


def test_a_collapse_is_told():
    """Nearly constant embeddings have collapsed, by direction or by size; random ones have not."""
    one, other = normal(50, 8), normal(50, 8, seed=1)
    assert not has_collapsed(one, other)
    assert has_collapsed(one * 0.01 + 1, other * 0.01 + 1)
    assert has_collapsed(one * 1e-3, other * 1e-3)


def toy():
    """Return a backbone of 1 x 1 convolutions and poolings, which sees no context, with Lite0's taps."""

    def segments():
        layers = [Conv("a", (3, 40), bias=True), nn.Tanh(), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)]
        yield "stage2", nn.Sequential(*layers)
        yield "stage3.half", nn.Sequential(Conv("b", (40, 80), bias=True), nn.Tanh(), nn.MaxPool2d(2))
        yield "stage3", nn.Sequential(Conv("c", (80, 112), bias=True), nn.Tanh())

    return Trunk(segments(), ("stage3", "stage3.half", "stage2"))


@pytest.mark.parametrize("train", ["budget", "none"])
def test_dense_embedding_is_that_of_single_patches(train):
    """M-15: where features see no context, one pass over the frame gives what encoding every patch alone gives."""
    torch.manual_seed(6)
    settings = MspbaSettings(image_size=192, train=train)
    backbone, heads = toy(), heads_of(settings)
    planes = normal(2, 3, 192, 192)
    with torch.no_grad():
        dense = DenseEmbedding(settings, backbone, heads)(planes)
        single = PatchEmbedding(settings, backbone, heads)(planes)
    assert [each.shape[1] for each in dense] == [scale.grid(192) ** 2 for scale in settings.scales]
    for one, other in zip(dense, single, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_dense_embedding_is_that_of_crops_with_their_context():
    """With the real backbone a patch cut out with the context its features see has the frame's own embedding."""
    torch.manual_seed(7)
    settings = MspbaSettings(image_size=512, train="budget")
    backbone, heads = load_backbone(settings.backbone, settings.taps), heads_of(settings)
    planes = normaliser(settings.backbone)(torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8))
    with torch.no_grad():
        dense = DenseEmbedding(settings, backbone, heads)(planes)
        for scale, head, found in zip(settings.scales, heads, dense, strict=True):
            corner, context, grid = 208, scale.context, scale.grid(512)
            cut = slice(corner - context, corner + scale.side + context)
            tap = run_to(backbone, scale.tap, planes[:, :, cut, cut])
            inside = slice(context // scale.stride, context // scale.stride + scale.window)
            place = corner // scale.step
            expected = head(tap[:, :, inside, inside]).flatten()
            torch.testing.assert_close(found[0, place * grid + place], expected, rtol=0, atol=1e-4)
            alone = head(
                run_to(backbone, scale.tap, planes[:, :, corner : corner + scale.side, corner : corner + scale.side])
            )
            assert (alone.flatten() - found[0, place * grid + place]).abs().max() > 1e-3


def test_vgg_grids_have_the_published_sizes():
    """M-15: VGG's dense maps give 13, 57 and 61 patches a side."""
    settings = MspbaSettings(backbone="vgg16", train="full")
    sides = {64: 16, 32: 64, 16: 128}
    for scale, head in zip(settings.scales, heads_of(settings), strict=True):
        skip = scale.step // scale.stride
        with torch.device("meta"):
            grid = head.to("meta")(torch.empty(1, scale.channels, sides[scale.side], sides[scale.side]))
        assert grid[:, :, ::skip, ::skip].shape[2] == scale.grid(256)


def test_pooled_patches_are_means_of_norm_one():
    """Without training an embedding is the mean feature of its patch, divided by its norm."""
    scale = MspbaSettings(train="none").scales[0]
    tap = normal(1, 112, 5, 5)
    found = PooledHead(scale)(tap)
    mean = tap[0, :, 1:5, 0:4].double().mean((1, 2))
    torch.testing.assert_close(found[0, :, 1, 0].double(), mean / mean.norm(), rtol=0, atol=1e-6)


def test_vgg_is_the_published_network(mspba):
    """Random weights under the published names give the maps of a plain loop over the published layers."""
    taps = ("features.29", "features.8", "features.15")
    backbone = random_backbone("vgg16", taps, seed=3)
    state = {
        f"{part.key}.{name}": each.numpy()
        for part in backbone.modules()
        if isinstance(part, Conv)
        for name, each in part.state_dict().items()
    }
    assert sum(each.size for each in state.values()) == 14_714_688
    planes = normal(1, 3, 32, 35)
    for tap, found in zip(taps, backbone(planes), strict=True):
        expected = mspba.vgg(state, planes[0].numpy(), int(tap.split(".")[1]))
        assert found.shape[1:] == expected.shape
        assert abs(found[0].numpy() - expected).max() < 1e-4 * expected.max()


def test_heads_share_the_work_of_neighbours():
    """A head over a larger map gives at every place the embedding of that place's window."""
    torch.manual_seed(8)
    scale = MspbaSettings(backbone="vgg16").scales[1]
    head, tap = PatchHead(scale, 16), normal(1, scale.channels, 11, 10)
    whole = head(tap)
    assert whole.shape == (1, 16, 4, 3)
    for y, x in ((0, 0), (3, 2), (1, 2)):
        torch.testing.assert_close(
            whole[:, :, y, x], head(tap[:, :, y : y + 8, x : x + 8])[:, :, 0, 0], atol=1e-5, rtol=0
        )
