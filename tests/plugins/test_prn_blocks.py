"""PRN's network, block by block: shapes, counts and examples of the specification, and the slow definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from plugins.backbones import random_backbone
from plugins.prn.attention import AttentionBlock, PatchAttention, attend, join, split
from plugins.prn.decoder import Decoder
from plugins.prn.features import Features
from plugins.prn.fusion import Fusion, enlarged
from plugins.prn.layers import fold
from plugins.prn.losses import focal, loss_of, smooth_l1
from plugins.prn.network import Network
from plugins.prn.settings import LAYERS, SCALES, PrnSettings, map_shapes
from tests.plugins import prn_reference as reference

PAPER = PrnSettings(backbone="resnet18", width=64, blocks=3)
SMALL = PrnSettings(image_size=128, width=4)


def weights(module):
    """Return how many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def drawn(*shape, seed=0):
    """Return normal numbers of a shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stirred(module, seed=1):
    """Give a module in eval mode weights and running statistics that are not those of a start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (0.3 if tensor.ndim > 1 else 0.5))
    return module.eval()


def state_of(module):
    """Return a module's state in float64."""
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


def test_maps_and_logits_have_the_papers_shapes():
    """R-1: a 256 x 256 frame gives the specified four maps, and the small network a logit for every pixel."""
    features = Features(PAPER, random_backbone("resnet18", LAYERS["resnet18"], 0))
    shapes = [tuple(tap.shape[1:]) for tap in features(torch.zeros(1, 3, 256, 256))]
    assert shapes == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8)]
    taps = [torch.zeros(1, channels, side, side) for channels, side in map_shapes(SMALL)]
    assert Network(SMALL).eval()(taps, taps[:SCALES]).shape == (1, 1, 128, 128)


def test_the_papers_network_has_its_number_of_parameters():
    """R-2, less the query and key of whole-map patches, which nothing depends on and which do not exist here."""
    with torch.device("meta"):
        network = Network(PAPER)
        both = Network(PAPER.model_copy(update={"share_fuser": False}))
    dead = 3 * 4 * (128 * 64**2 + 256 * 32**2 + 512 * 16**2)
    assert weights(network.fuse_features) == 68_096
    assert weights(network.fuse_again) == 250_880
    assert weights(network.attention) == 72_530_304 - dead
    assert weights(network.decoder) == 4_686_529
    assert weights(network) == 77_535_809 - dead
    assert weights(both) == weights(network) + 68_096


def test_patches_are_cut_row_by_row_and_put_back():
    """R-5: tokens in the order (channel, row, column), and back to the very same map."""
    assert split(torch.arange(16.0).view(1, 1, 4, 4), 2)[0].tolist() == [
        [0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]
    ]  # fmt: skip
    assert split(torch.arange(8.0).view(1, 2, 2, 2), 1)[0].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    maps = drawn(2, 3, 8, 8)
    for patch in (8, 4, 2, 1):
        assert torch.equal(join(split(maps, patch), 3, 8), maps)


def test_a_single_patch_is_scaled_and_shifted():
    """R-6: where the whole map is one patch, the result is w x + b, exactly."""
    attention = PatchAttention(2, 4, 4, "sqrt")
    maps = drawn(1, 2, 4, 4)
    expected = maps * attention.value.weight.view(2, 4, 4) + attention.value.bias.view(2, 4, 4)
    torch.testing.assert_close(attention(maps), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("scale", "shares"), [(1 / 2, (0.880797, 0.119203)), (2**-0.5, (0.944193, 0.055807))])
def test_attention_is_scaled(scale, shares):
    """R-7: two orthogonal tokens of length 2 give the specification's shares for either scale."""
    tokens = 2 * torch.eye(2)[None]
    found = attend(tokens, tokens, torch.eye(2)[None], scale)
    assert found[0, 0].tolist() == pytest.approx(shares, abs=1e-6)


def test_channels_reduce_by_themselves():
    """R-8: of 64 channels to 128 the sixth output reads input 2, to 256 input 1; without input there is the bias."""
    fusion = Fusion((64, 128, 256))
    for convolution, read in ((fusion.fine_to_middle, 2), (fusion.fine_to_coarse, 1)):
        quiet = torch.zeros(1, 64, 8, 8)
        torch.testing.assert_close(convolution(quiet)[0, :, 1, 1], convolution.bias)
        heard = quiet.clone()
        heard[0, read] = 1.0
        assert not torch.equal(convolution(heard)[0, 5], convolution(quiet)[0, 5])
        heard = quiet.clone() + 1.0
        heard[0, read] = 0.0
        assert torch.equal(convolution(heard)[0, 5], convolution(quiet)[0, 5])


def test_losses_are_the_specifications():
    """R-9: smooth L1, focal and their sum on four pixels, and on random ones as the definition reads."""
    probability, mask = torch.tensor([0.9, 0.6, 0.2, 0.05]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert float(smooth_l1(probability, mask)) == pytest.approx(0.1265625)
    assert focal(probability, mask).tolist() == pytest.approx([5.27e-6, 0.059369, 0.329570, 1.6e-7], rel=6e-3)
    assert float(focal(probability, mask).mean()) == pytest.approx(0.097236, abs=1e-6)
    assert float(loss_of(probability, mask)) == pytest.approx(0.612743, abs=1e-6)
    probability, mask = torch.rand(50, generator=torch.Generator().manual_seed(3)), (drawn(50) > 0.5).float()
    assert float(loss_of(probability, mask)) == pytest.approx(
        reference.loss(probability.double().tolist(), mask.tolist())[2], rel=1e-5
    )


def test_losses_are_finite_at_certainty():
    """Probabilities of exactly 0 and 1, right or wrong, give a finite loss and gradient."""
    probability = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    loss = loss_of(probability, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(probability.grad).all()


def test_maps_are_enlarged_corner_to_corner():
    """R-14: eight samples of four pixels lie at i x 3/7."""
    line = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    expected = [0, 0.428571, 0.857143, 1.285714, 1.714286, 2.142857, 2.571429, 3]
    assert enlarged(line, 8)[0, 0, 3].tolist() == pytest.approx(expected, abs=1e-6)


def test_fusion_equals_its_definition():
    """Three random maps, fused by the module and by sums over taps in float64."""
    fusion = stirred(Fusion((2, 4, 8)))
    maps = [drawn(2, 16, 16), drawn(4, 8, 8), drawn(8, 4, 4)]
    expected = reference.fused(
        [each.double().numpy() for each in maps], {f"f.{k}": v for k, v in state_of(fusion).items()}, "f"
    )
    for found, wanted in zip(fusion([each[None] for each in maps]), expected, strict=True):
        np.testing.assert_allclose(found[0].detach().numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("attn_scale", ["sqrt", "linear"])
def test_an_attention_block_equals_its_definition(attn_scale):
    """Four patch sizes and the residual block, by the module and patch by patch in float64."""
    block = stirred(AttentionBlock(3, 8, attn_scale))
    maps = drawn(2, 3, 8, 8)
    state = {f"b.{name}": array for name, array in state_of(block).items()}
    for found, each in zip(block(maps).detach().numpy(), maps.double().numpy(), strict=True):
        np.testing.assert_allclose(
            found, reference.attention_block(each, state, "b", linear=attn_scale == "linear"), atol=2e-5
        )


def test_the_decoder_equals_its_definition():
    """The U of a narrow network, by the module and step by step in float64."""
    decoder = stirred(Decoder(2))
    maps, deepest = [drawn(4, 8, 8), drawn(8, 4, 4), drawn(16, 2, 2)], drawn(16, 1, 1)
    state = {f"d.{name}": array for name, array in state_of(decoder).items()}
    expected = reference.decoded([each.double().numpy() for each in maps], deepest.double().numpy(), state, "d")
    found = decoder([each[None] for each in maps], deepest[None])[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_network_equals_its_definition_and_norms_merge():
    """A whole small network beside the slow definition, and again with its norms merged into the convolutions."""
    network = stirred(Network(SMALL))
    taps = [drawn(channels, side, side, seed=n) for n, (channels, side) in enumerate(map_shapes(SMALL))]
    residuals = [tap.square() for tap in taps[:SCALES]]
    expected = reference.segmented(
        [each.double().numpy() for each in taps], [each.double().numpy() for each in residuals], state_of(network), 1
    )
    scale = np.abs(expected).max()
    inputs = [each[None] for each in taps], [each[None] for each in residuals]
    with torch.no_grad():
        np.testing.assert_allclose(network(*inputs)[0].numpy() / scale, expected / scale, atol=2e-5)
        fold(network)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        np.testing.assert_allclose(network(*inputs)[0].numpy() / scale, expected / scale, atol=2e-5)


def test_everything_that_is_trained_gets_a_gradient():
    """R-16: on a random batch every parameter of the network has a gradient that is not zero."""
    network = Network(SMALL).train()
    taps = [drawn(2, channels, side, side, seed=n) for n, (channels, side) in enumerate(map_shapes(SMALL))]
    mask = (drawn(2, 1, 128, 128) > 1).float()
    loss_of(network(taps, [tap.square() for tap in taps[:SCALES]]).sigmoid(), mask).backward()
    # A bias before a batch norm is taken off again: its gradient is nothing but rounding.
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_the_encoder_never_trains():
    """R-4: asked to train, it stays in eval mode, needs no gradient, and gives the same maps."""
    features = Features(SMALL)
    frames = torch.randint(0, 256, (2, 3, 128, 128), generator=torch.Generator().manual_seed(0)).float()
    before = features.eval()(frames)
    features.train()
    assert not any(module.training for module in features.modules())
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, features(frames), strict=True))
