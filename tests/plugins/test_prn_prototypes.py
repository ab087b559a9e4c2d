"""Prototypes and residuals: examples of the specification, plain k-means, insertion, and the resize before them."""

import numpy as np
import pytest
import torch
from PIL import Image

from plugins.prn.features import resized
from plugins.prn.kmeans import clusters, distances_to_means, inner_products, settle
from plugins.prn.lanczos import LanczosResize
from plugins.prn.learning import bank_tensors, spare
from plugins.prn.prototypes import (
    EMPTY,
    MOST_RESIDUAL,
    Prototypes,
    count_of,
    learn_prototypes,
    nearest,
    residual,
    residuals,
    squared_norms,
)
from plugins.prn.settings import PrnSettings
from plugins.prn.templates import inserted
from tests.plugins import prn_reference as reference


def blobs(groups, each, length=40, apart=6.0, seed=0):
    """Return float32 rows [groups * each, length] in groups, shuffled."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(0, apart, (groups, length))
    rows = np.repeat(middles, each, 0) + rng.normal(0, 1, (groups * each, length))
    return torch.from_numpy(rng.permutation(rows).astype(np.float32))


def bank_of(maps, capacity=None):
    """Return (prototypes, norms) of maps."""
    room = capacity or len(maps)
    padded = torch.cat((maps, torch.zeros(room - len(maps), *maps.shape[1:])))
    return padded, squared_norms(maps, room)


def test_the_residual_is_to_the_nearest_prototype():
    """R-3: of two prototypes the one a distance of 1 away is taken, and a frame equal to one differs nowhere."""
    maps = torch.tensor([[1.0, 2, 3, 3], [0, 0, 3, 4]]).view(2, 1, 2, 2)
    bank = bank_of(maps)
    frame = torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2)
    assert nearest(frame, *bank).tolist() == [0]
    assert residuals([frame], bank)[0].flatten().tolist() == [0, 0, 0, 1]
    assert residuals([maps[1:]], bank)[0].abs().max() == 0


def test_a_batch_is_matched_frame_by_frame():
    """R-15: two frames near different prototypes get different ones, in whatever order; scales choose on their own."""
    maps = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    frames = maps[[3, 1]] + 0.1
    bank = bank_of(maps)
    assert nearest(frames, *bank).tolist() == [3, 1]
    assert nearest(frames.flip(0), *bank).tolist() == [1, 3]
    found = residuals([frames, frames.flip(0)], (*bank, *bank))
    torch.testing.assert_close(found[0], found[1].flip(0))


def test_matching_equals_plain_distances():
    """The product form picks what the plain Euclidean distance in float64 picks; of two equal ones the first."""
    maps = torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    frames = torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    plain = [reference.nearest(frame, maps.double().numpy()) for frame in frames.double().numpy()]
    assert nearest(frames, *bank_of(maps)).tolist() == plain
    twice = torch.cat((maps, maps))
    assert nearest(frames, *bank_of(twice)).tolist() == plain


def test_room_that_holds_nothing_is_never_chosen():
    """Rows of the capacity without a prototype are far from everything, a frame of zeros included."""
    maps = torch.full((2, 1, 2, 2), 100.0)
    prototypes, norms = bank_of(maps, capacity=6)
    assert norms[2:].tolist() == [pytest.approx(EMPTY)] * 4
    assert nearest(torch.zeros(1, 1, 2, 2), prototypes, norms).tolist() == [0]


def test_residuals_stay_within_half_precision():
    """However far a frame is from its prototype, no residual is beyond what half precision holds."""
    apart = residual(torch.full((1, 1, 1, 1), 1e4), torch.zeros(1, 1, 1, 1))
    assert float(apart) == MOST_RESIDUAL
    assert torch.isfinite(apart.half()).all()


@pytest.mark.parametrize(
    ("references", "prototypes"), [(60, 6), (209, 20), (224, 22), (280, 28), (391, 39), (9, 1), (2000, 64)]
)
def test_a_tenth_of_the_references_are_prototypes(references, prototypes):
    """R-13: a tenth, rounded down, at least one, and no more than the cap."""
    assert count_of(references, PrnSettings()) == prototypes


def test_clusters_equal_plain_k_means():
    """R-13: from the same start the clusters found by inner products are those of plain k-means."""
    rows = blobs(4, 8, apart=1.0)
    start = np.random.default_rng(3).integers(0, 4, 32)
    found, inertia = settle(inner_products(rows), start, 4)
    plain = reference.lloyd(rows.double().numpy(), start, 4)
    np.testing.assert_array_equal(found, plain)
    means = np.stack([rows.double().numpy()[plain == each].mean(0) for each in range(4)])
    assert inertia == pytest.approx(((rows.double().numpy() - means[plain]) ** 2).sum(), rel=1e-6)


def test_groups_are_found_whatever_the_seed():
    """Well separated groups come out whole, each a cluster."""
    rows = blobs(5, 6)
    products = inner_products(rows)
    distances = distances_to_means(products, np.arange(30), 30)
    for seed in range(3):
        found = clusters(products, 5, seed)
        assert sorted(np.bincount(found)) == [6] * 5
        for each in range(5):
            assert (
                distances[np.ix_(found == each, found == each)].max()
                < distances[np.ix_(found == each, found != each)].min()
            )


def test_an_empty_cluster_gets_the_farthest_row():
    """A start that leaves a cluster empty ends with every cluster taken."""
    rows = blobs(3, 4)
    found, _ = settle(inner_products(rows), np.zeros(12, np.int64), 3)
    assert set(found) == {0, 1, 2}


def test_equal_references_make_one_prototype():
    """References that do not differ at all give fewer prototypes than asked for, and no number that is none."""
    learnt, members = learn_prototypes(torch.ones(12, 2, 4, 4), 3, 0)
    assert learnt.maps.shape == (1, 2, 4, 4)
    assert (learnt.counts.tolist(), members.tolist()) == ([12], [0] * 12)
    assert (learnt.radius, learnt.alignment) == (0.0, 0.0)


def test_prototypes_are_the_means_of_their_references():
    """Each is the mean of its group, its radius that of plain distances."""
    rows = blobs(3, 5, length=32)
    learnt, members = learn_prototypes(rows.view(15, 2, 4, 4), 3, 0)
    for number in range(3):
        torch.testing.assert_close(learnt.maps[number].flatten(), rows[members == number].mean(0))
    own = (rows - learnt.maps.flatten(1)[members]).square().sum(1).sqrt()
    assert learnt.counts.tolist() == [5, 5, 5]
    assert learnt.radius == pytest.approx(float(own.max()), rel=1e-5)


@pytest.mark.parametrize("groups", [3, 1])
def test_alignment_is_that_of_frames_the_prototypes_do_not_know(groups):
    """Each reference's distance is to the mean of the others of its group; one that is alone is measured to another."""
    rows = torch.cat((blobs(groups, 5, length=32), torch.full((1, 32), 90.0)))
    learnt, members = learn_prototypes(rows.view(-1, 2, 4, 4), groups + 1, 0)
    plain = rows.double().numpy()
    apart = []
    for number in range(len(plain)):
        means = [
            plain[(members == group) & (np.arange(len(plain)) != number)].mean(0)
            for group in range(groups + 1)
            if ((members == group) & (np.arange(len(plain)) != number)).any()
        ]
        apart.append(min(np.linalg.norm(plain[number] - mean) for mean in means))
    between = np.sqrt(((plain[:, None] - plain[None]) ** 2).sum(2)).sum() / (len(plain) * (len(plain) - 1))
    assert learnt.alignment == pytest.approx(np.mean(apart) / between, rel=1e-4)


def test_an_inserted_frame_moves_its_prototype_or_becomes_one():
    """Within the radius the prototype stays the mean of its frames; beyond it the frame is a prototype of its own."""
    maps = torch.zeros(1, 1, 2, 2)
    prototypes = Prototypes(maps, np.array([3], np.int32), 2.0, 0.5)
    near = inserted(prototypes, torch.full((1, 2, 2), 0.8))
    assert near.counts.tolist() == [4]
    torch.testing.assert_close(near.maps, torch.full((1, 1, 2, 2), 0.2))
    far = inserted(prototypes, torch.full((1, 2, 2), 4.0))
    assert far.counts.tolist() == [3, 1]
    assert torch.equal(far.maps[1], torch.full((1, 2, 2), 4.0))
    assert maps.abs().max() == 0


def test_the_bank_has_every_row_of_its_capacity():
    """Prototypes of each scale are followed by their norms, both as long as the capacity."""
    prototypes = [Prototypes(torch.ones(2, 1, 2, 2), np.array([1, 1], np.int32), 1.0, 0.0)] * 3
    bank = bank_tensors(prototypes, 5, "cpu")
    assert [tuple(each.shape) for each in bank] == [(5, 1, 2, 2), (5,)] * 3
    assert bank[1].tolist() == [4.0, 4.0, *[pytest.approx(EMPTY)] * 3]


def test_small_sets_spare_references_too():
    """From five references on some are seen by nothing, so that thresholds need no second training."""
    assert spare(4) == []
    assert spare(5) == [0]
    assert spare(15) == [0, 5, 10]
    assert len(spare(160)) == 20


@pytest.mark.parametrize("shape", [(300, 200, 3), (97, 640, 1), (100, 90, 3), (128, 128, 1)])
def test_frames_are_resized_as_pillow_does(shape):
    """Lanczos, antialiased, by two matrices: within one level of Pillow, columns before rows, larger or smaller."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shape, np.uint8)
    found = LanczosResize(shape, 128)(torch.from_numpy(image)[None])[0].permute(1, 2, 0).numpy()
    # In one call Pillow chooses which direction comes first; noise at full contrast tells the difference.
    plain = Image.fromarray(image.squeeze())
    for size in ((128, shape[0]), (128, 128)):
        plain = plain.resize(size, Image.Resampling.LANCZOS)
    assert np.abs(found.squeeze() - np.asarray(plain, np.float32)).max() <= 1
    np.testing.assert_array_equal(resized(image.squeeze(), 128), found.squeeze().astype(np.uint8))
