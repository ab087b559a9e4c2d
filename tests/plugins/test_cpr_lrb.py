"""CPR's local heads: the trained form against the definition, the merged form against it, published checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgead import WeightsError
from plugins.cpr.lrb import LocalHead, LocalHeads, beside_raw, normalised
from plugins.cpr.merge import MergedHead
from plugins.cpr.published import heads_of, load_heads

#: Channels of both scales, width of the local features, learnt parameters of both heads (specification, 0.5).
VARIANTS = {"cpr": ((256, 512), 384, 494_656), "fast": ((256, 512), 64, 330_176), "faster": ((24, 40), 16, 170_336)}


def test_features_beside_raw_ones_have_the_mean_of_their_cosines():
    """Whatever their lengths, a share of the raw cosine and the rest of the heads' is the joint one; norm 1, too."""
    generator = torch.Generator().manual_seed(0)
    raw, local = torch.randn(2, 5, 1, 1, generator=generator) * 9, torch.randn(2, 3, 1, 1, generator=generator) / 7
    joint = beside_raw(local, raw, 0.3)
    first, second, both = (normalised(each).flatten(1) for each in (raw, local, joint))
    assert float(both[0] @ both[1]) == pytest.approx(
        0.3 * float(first[0] @ first[1]) + 0.7 * float(second[0] @ second[1]), abs=1e-6
    )
    assert torch.linalg.vector_norm(joint, dim=1).flatten().tolist() == pytest.approx([1, 1])
    assert beside_raw(local, raw, 0.0) is local


def filled(module, seed=0):
    """Give every weight and statistic of a module random values of ordinary size; return it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, each in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        drawn = torch.randn(each.shape, generator=generator)
        if name.endswith("running_var"):
            drawn = 0.5 + drawn.abs()
        elif each.ndim > 1:
            drawn *= (2 / each[0].numel()) ** 0.5
        else:
            drawn = (1.0 if name.endswith(("1.weight", "bn.weight")) else 0.0) + 0.2 * drawn
        each.copy_(drawn)
    return module.requires_grad_(requires_grad=False).eval()


def features(channels, side, seed=1):
    """Draw a backbone map [1, channels, side, side]."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((1, channels, side, side)).astype(np.float32))


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_have_the_published_shapes(variant):
    """T3: parameters of both heads and the last convolution's shape are those of the specification."""
    channels, width, expected = VARIANTS[variant]
    heads = LocalHeads(channels, width)
    assert sum(each.numel() for each in heads.parameters()) == expected
    assert all(tuple(head.layers[4].weight.shape) == (width, 256, 1, 1) for head in heads)


@pytest.mark.parametrize("shortcut", [False, True])
def test_head_is_the_definition(cpr, shortcut):
    """Stem, four branches, order and epsilons are those computed step by step in float64."""
    head = filled(LocalHead(6, 5, shortcut=shortcut))
    x = features(6, 5)
    state = {name: each.numpy() for name, each in head.state_dict().items()}
    np.testing.assert_allclose(head(x)[0].numpy(), cpr.head(state, x[0].numpy()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize(("channels", "width"), [(24, 16), (256, 64), (40, 384)])
def test_merged_head_gives_the_same_features(channels, width, shortcut):
    """T4: with the last convolution left alone the merged head's local features are the head's to 1e-4."""
    head = filled(LocalHead(channels, width, shortcut=shortcut))
    merged = MergedHead(head, reduced=False)
    x = features(channels, 9)
    expected = head(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(merged(x), expected, rtol=0, atol=1e-4)
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in merged.modules())


@pytest.mark.parametrize(("shortcut", "width"), [(False, 257), (True, 257 + 24)])
def test_reduced_head_keeps_every_cosine(shortcut, width):
    """T17: 384 channels become as many as the last layer's inputs and one, and no cosine moves by more than 1e-5."""
    head = filled(LocalHead(24, 384, shortcut=shortcut))
    merged = MergedHead(head)
    assert merged.width == width
    pairs = [normalised(each(features(24, 6, seed))).flatten(2)[0] for each in (head, merged) for seed in (1, 2)]
    torch.testing.assert_close(pairs[2].T @ pairs[3], pairs[0].T @ pairs[1], rtol=0, atol=1e-5)
    norms = [torch.linalg.vector_norm(each(features(24, 6)), dim=1) for each in (head, merged)]
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-5, atol=0)


def test_border_is_as_bright_as_the_middle():
    """T5: of a constant map the averaging branch is constant up to the border: padding is not counted."""
    head = filled(LocalHead(4, 3))
    block = head.layers[3]
    stem = torch.rand(1, 192, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 192, 6, 6)
    found = block.branch3(stem)
    torch.testing.assert_close(found, found[:, :, 2:3, 2:3].expand_as(found), rtol=0, atol=1e-6)


def test_training_heads_are_not_merged():
    """Statistics that still move cannot be folded: a head in training mode is refused."""
    with pytest.raises(ValueError, match="eval mode"):
        MergedHead(LocalHead(4, 3))


def test_normalised_adds_its_epsilon():
    """Norms become 1, a vector of zeros stays zeros, and one as long as the epsilon is halved."""
    local = torch.zeros(1, 2, 1, 3)
    local[0, :, 0, 0] = torch.tensor([3.0, -4.0])
    local[0, 0, 0, 1] = 1e-8
    found = normalised(local)[0, :, 0].T
    torch.testing.assert_close(found, torch.tensor([[0.6, -0.8], [0.5, 0.0], [0.0, 0.0]]))


def published(heads, prefix="lrb.conv"):
    """Return the state dict of heads as the authors name it, with some of their backbone."""
    named = {f"{prefix}.{name.replace('.layers.', '.', 1)}": each for name, each in heads.state_dict().items()}
    return {"model.features.conv0.weight": torch.zeros(2), **named}


@pytest.mark.parametrize("prefix", ["lrb.conv", "module.lrb.conv"])
def test_published_checkpoint_is_read_by_name(tmp_path, prefix):
    """A file in the authors' naming, with the names the specification lists, gives their heads, tensor for tensor."""
    heads = filled(LocalHeads((24, 40), 16))
    content = published(heads, prefix)
    for name in ("0.weight", "1.running_var", "3.branch0.conv.weight", "3.branch1.0.bn.bias", "3.branch1.1.conv.weight",
                 "3.branch2.0.bn.weight", "3.branch3.1.conv.weight", "4.bias"):  # fmt: skip
        assert f"{prefix}.1.{name}" in content
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    found = load_heads(path, (24, 40), 16)
    x = (features(24, 4), features(40, 2))
    for mine, theirs in zip(found(x), heads(x), strict=True):
        assert torch.equal(mine, theirs)


def test_unfit_checkpoints_are_refused(tmp_path):
    """A missing file, another width, a missing and a foreign tensor are errors that name them; nothing is filled in."""
    content = published(filled(LocalHeads((24, 40), 16)))
    with pytest.raises(WeightsError, match="found none"):
        load_heads(tmp_path / "missing.pth", (24, 40), 16)
    with pytest.raises(
        WeightsError, match=r"0\.layers\.4\.weight: expected \(64, 256, 1, 1\), found \(16, 256, 1, 1\)"
    ):
        heads_of(content, (24, 40), 64, "x")
    without = {name: each for name, each in content.items() if name != "lrb.conv.1.1.running_mean"}
    with pytest.raises(WeightsError, match=r"1\.layers\.1\.running_mean: expected \(192,\), found None"):
        heads_of(without, (24, 40), 16, "x")
    with pytest.raises(WeightsError, match=r"2\.layers\.0\.bias is foreign"):
        heads_of(content | {"lrb.conv.2.0.bias": torch.zeros(192)}, (24, 40), 16, "x")
