"""Training compares a picture with prototypes that do not know it: residuals are those a new good frame would have."""

import numpy as np
import pytest
import torch

from edgead import DetectorContext
from plugins.prn import learning
from plugins.prn.features import Features, encode
from plugins.prn.left_out import Compared
from plugins.prn.pictures import Picture
from plugins.prn.pool import encode_pool
from plugins.prn.prototypes import Prototypes, residuals
from plugins.prn.settings import PrnSettings
from tests.plugins.prn_plates import plate

SHAPE = (2, 3, 3)


@pytest.fixture
def maps():
    """Return maps float32 [6, 2, 3, 3] of two groups far apart and one that is alone."""
    rng = np.random.default_rng(0)
    middles = np.array([0, 0, 0, 9, 9, 30])[:, None, None, None]
    return torch.from_numpy((middles + rng.normal(0, 1, (6, *SHAPE))).astype(np.float32))


@pytest.fixture
def compared(maps):
    """Return the prototypes of the three groups; reference 6 is a spared one."""
    groups = [[0, 1, 2], [3, 4], [5]]
    means = torch.stack([maps[group].mean(0) for group in groups])
    prototypes = Prototypes(means, np.array([3, 2, 1], np.int32), 1.0, 0.5)
    return Compared.of(prototypes, np.array([0, 0, 0, 1, 1, 2, -1]), "cpu")


def test_a_reference_is_compared_with_the_mean_of_the_others(compared, maps):
    """In one batch each is compared with its group's mean without itself, one that was alone with the nearest group."""
    found = compared.residuals(maps, maps, range(6))
    others = [maps[[1, 2]].mean(0), maps[[0, 2]].mean(0), maps[[0, 1]].mean(0), maps[4], maps[3], maps[[3, 4]].mean(0)]
    torch.testing.assert_close(found, (maps - torch.stack(others)).square(), rtol=1e-4, atol=1e-4)


def test_a_spared_frame_is_compared_as_in_the_graph(compared, maps):
    """What is part of no prototype, and what is made of no reference, has the residuals of the exported graph."""
    new = maps + 0.5
    (expected,) = residuals([new], [compared.prototypes, compared.norms])
    for source in (6, -1):
        torch.testing.assert_close(compared.residuals(new, maps, [source] * 6), expected)


def test_a_damaged_picture_is_compared_without_its_reference(compared, maps):
    """The reference that is left out is the clean one, whatever was planted into it."""
    damaged = maps[:1] + 2.0
    found = compared.residuals(damaged, maps[:1], [0])
    torch.testing.assert_close(found, (damaged - maps[[1, 2]].mean(0)).square(), rtol=1e-4, atol=1e-4)


def test_the_only_reference_stays(maps):
    """Where there is one reference in all, its prototype is all there is: the residual is zero."""
    alone = Compared.of(Prototypes(maps[:1], np.array([1], np.int32), 0.0, 0.0), np.array([0]), "cpu")
    assert not alone.residuals(maps[:1], maps[:1], [0]).any()


def test_pools_hold_residuals_without_the_pictures_own_reference():
    """Of two references in one prototype each is a training picture with the residual to the other, at every scale."""
    settings = PrnSettings.model_validate({"image_size": 128, "width": 4, "prototype_share": 0.5})
    features = Features(settings)
    images = [np.ascontiguousarray(np.pad(plate(number), ((0, 28), (0, 0)))) for number in range(2)]
    good = learning.GoodFrames(settings, images, usable=[0, 1], unseen=[], foregrounds=None)
    prototypes, members = learning._prototypes(good, features, DetectorContext())
    bank = [Compared.of(*each, "cpu") for each in zip(prototypes, members, strict=True)]
    mask = np.zeros((128, 128), bool)
    mask[5, 5] = True
    drawn = [Picture(np.repeat(images[at][:, :, None], 3, 2), mask if at else ~mask & mask, "", at) for at in (0, 1)]
    pool = encode_pool(drawn, images, features, bank, "cpu")
    taps = encode(images, features, "cpu")
    _, found = pool.inputs(torch.tensor([0, 1]))
    for tap, each in zip(taps[:3], found, strict=True):
        torch.testing.assert_close(each, (tap - tap.flip(0)).square(), rtol=2e-3, atol=1e-2)
