"""CPR's global retrieval against the definition and the worked numbers of its specification (T6 to T12, T35, T36)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgead import ConfigError
from plugins.cpr.grb import (
    EMPTY,
    Codebook,
    Histograms,
    distances,
    log_histograms,
    nearest_references,
    self_excluded_rankings,
)
from plugins.cpr.kmeans import kmeans, nearest, sample


def spread(*shares):
    """Return a histogram of one block, [1, 1, bins]."""
    return torch.tensor([[shares]], dtype=torch.float32)


def divergence(query, reference):
    """Return the distance of two histograms of one block."""
    return distances(spread(*query), log_histograms(spread(*reference))).item()


def random_histograms(rng, count, blocks=25, bins=12, pixels=256):
    """Draw histograms [count, blocks, bins] of ``pixels`` pixels a block."""
    drawn = rng.multinomial(pixels, rng.dirichlet(np.ones(bins), (count, blocks)))
    return torch.from_numpy((drawn / pixels).astype(np.float32))


@pytest.mark.parametrize(
    ("query", "reference", "expected"),
    [
        ((0.5, 0.5, 0), (0.25, 0.75, 0), 0.143841),
        ((0.25, 0.75, 0), (0.5, 0.5, 0), 0.130812),
        ((1, 0), (0, 1), 18.42068),
        ((0.5, 0.5, 0), (1, 0, 0), 8.51719),
        ((0.5, 0.5, 0), (0.25, 0.25, 0.5), 0.69315),
        ((254 / 256, 2 / 256), (255 / 256, 1 / 256), 0.0015166),
        ((255 / 256, 1 / 256), (1, 0), 0.046396),
    ],
)
def test_divergence_is_that_of_the_specification(query, reference, expected):
    """T6 and T12: the divergence takes the frame first, and a word the reference lacks costs what it should."""
    assert divergence(query, reference) == pytest.approx(expected, rel=3e-5)


def test_the_twenty_nearest_blocks_count(cpr):
    """T7 and T8: five of 25 blocks may differ without distance, a sixth may not."""
    rng = np.random.default_rng(0)
    references = random_histograms(rng, 8)
    for corrupted, zero in ((5, True), (6, False)):
        query = references[3:4].clone()
        query[0, rng.permutation(25)[:corrupted]] = random_histograms(rng, 1, corrupted)[0]
        found = distances(query, log_histograms(references))[0]
        assert (abs(found[3].item()) < 1e-5) is zero
        assert found.argmin() == 3
        for number, each in enumerate(references):
            expected = cpr.distance(query[0].double().numpy(), each.double().numpy())
            assert found[number].item() == pytest.approx(expected, rel=1e-5, abs=2e-5)


def test_sum_of_the_smallest_blocks():
    """T7: block divergences of 1 to 25 add up to 210 without the largest five."""
    # A frame with all of word 0 against a share of s costs -ln(s) where s is well above the epsilon.
    wanted = torch.arange(1, 26, dtype=torch.float64) / 2
    shares = (-wanted).exp()
    references = torch.stack((shares, 1 - shares), 1)[None]
    query = torch.tensor([1.0, 0.0]).expand(1, 25, 2)
    found = distances(query.double(), (references + 1e-300).log())
    assert found.item() == pytest.approx(105, rel=1e-6)


def test_codes_are_the_nearest_words(cpr):
    """T9: one convolution spells as distances do, and of two equal words it takes the first."""
    rng = np.random.default_rng(1)
    tap = rng.standard_normal((1, 24, 10, 10)).astype(np.float32)
    centres = rng.standard_normal((12, 24)).astype(np.float32)
    centres[10] = centres[9]
    found = Codebook(torch.from_numpy(centres))(torch.from_numpy(tap))[0].numpy()
    np.testing.assert_array_equal(found, cpr.codes(tap[0], centres))
    assert 10 not in found
    assert 9 in found


@pytest.mark.parametrize(("side", "grid", "words"), [(20, 5, 12), (8, 3, 4), (56, 5, 12), (13, 5, 3)])
def test_histograms_are_the_definition(cpr, side, grid, words):
    """T10 and T11: every block's shares, void ones too, are those counted pixel by pixel, and sum to 1."""
    code = np.random.default_rng(2).integers(0, words, (side, side))
    found = Histograms(side, words, grid)(torch.from_numpy(code)[None])[0]
    np.testing.assert_allclose(found.numpy(), cpr.histograms(code, words, grid), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(grid * grid))


def test_void_shares_are_those_of_the_specification():
    """T10 and T11: at H = 8, S = 3 and at H = 56, S = 5 the void lies at the top and left."""
    found = Histograms(8, 4, 3)(torch.full((1, 8, 8), 2))[0]
    void = torch.tensor([5 / 9, 3 / 9, 3 / 9, 3 / 9, 0, 0, 3 / 9, 0, 0])
    torch.testing.assert_close(found[:, 0], void)
    torch.testing.assert_close(found[:, 3], 1 - void)
    assert Histograms(56)(torch.zeros(1, 56, 56, dtype=torch.int64))[0, 0, 0].item() == pytest.approx(80 / 144)


@pytest.mark.parametrize("side", [1, 3, 6, 7, 16])
def test_sides_with_empty_blocks_are_refused(side):
    """T11: a map whose grid would leave whole blocks void, such as 7 pixels in 5 blocks, is an error that says so."""
    with pytest.raises(ConfigError, match=f"found {side} pixels a side"):
        Histograms(side)


def test_nearest_are_those_of_the_definition(cpr):
    """The rows chosen are the K nearest by the reference's ranking, whatever their order, for each frame of a batch."""
    rng = np.random.default_rng(3)
    references, queries = random_histograms(rng, 30), random_histograms(rng, 2)
    found = nearest_references(distances(queries, log_histograms(references)), 10)
    for chosen, query in zip(found, queries, strict=True):
        expected = cpr.ranking(query.double().numpy(), references.double().numpy(), 10)
        assert set(chosen.tolist()) == set(expected)


def test_of_equal_distances_the_first_rows_are_chosen():
    """Ties at the last place go to the lowest rows, however many there are."""
    distance = torch.tensor([[5.0, 1.0, 3.0, 3.0, 3.0, 3.0, 0.0, 3.0]])
    assert set(nearest_references(distance, 4)[0].tolist()) == {6, 1, 2, 3}
    assert set(nearest_references(torch.zeros(1, 400), 10)[0].tolist()) == set(range(10))


def test_empty_rows_are_never_chosen():
    """T36: a bank of eight rows with three references names these, more often where more are asked for."""
    distance = torch.tensor([[4.0, 2.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    empty = torch.tensor([0.0] * 3 + [EMPTY] * 5)
    for count, expected in ((1, {1}), (2, {0, 1}), (3, {0, 1, 2}), (5, {0, 1, 2}), (8, {0, 1, 2}), (20, {0, 1, 2})):
        assert set(nearest_references(distance + empty, count)[0].tolist()) == expected


def test_training_rankings_leave_the_reference_itself_out():
    """T35: no ranking holds its own reference, also where exact copies of it are in the set, which rank first."""
    histograms = random_histograms(np.random.default_rng(4), 12)
    histograms[[5, 8]] = histograms[1].clone()
    rankings = self_excluded_rankings(histograms, 10)
    assert rankings.shape == (12, 10)
    assert all(number not in row.tolist() for number, row in enumerate(rankings))
    assert rankings[1, :2].tolist() == [5, 8]
    assert rankings[8, :2].tolist() == [1, 5]
    assert self_excluded_rankings(histograms[:3], 10).shape == (3, 2)


def test_kmeans_finds_separate_clusters():
    """Four far clusters are found from any seed, as their means, and the same seed gives the same bits."""
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    rows = middles.repeat_interleave(50, 0) + 0.3 * torch.randn(200, 2, generator=generator)
    means = rows.view(4, 50, 2).mean(1)
    for seed in range(3):
        centres = kmeans(rows, 4, seed)
        order = nearest(means, centres)
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        torch.testing.assert_close(centres[order], means, rtol=0, atol=1e-5)
        assert torch.equal(centres, kmeans(rows, 4, seed))


def test_kmeans_is_no_worse_than_scikit_learns():
    """On rows without clusters the inertia is within two percent of scikit-learn's best of ten."""
    cluster = pytest.importorskip("sklearn.cluster")
    rows = np.random.default_rng(5).standard_normal((2000, 6)).astype(np.float32)
    centres = kmeans(torch.from_numpy(rows), 12, 66).numpy()
    inertia = ((rows[:, None] - centres[None]) ** 2).sum(2).min(1).sum()
    theirs = cluster.KMeans(12, n_init=10, random_state=66).fit(rows).inertia_
    assert inertia <= 1.02 * theirs


def test_kmeans_of_equal_rows_is_finite():
    """Fewer different rows than words give repeated centres, never NaN."""
    for rows in (torch.full((40, 3), 2.5), torch.tensor([[1.0], [4.0]]).repeat(20, 1), torch.ones(1, 2)):
        centres = kmeans(rows, 12, 0)
        assert centres.shape == (12, rows.shape[1])
        assert set(centres[:, 0].tolist()) <= set(rows[:, 0].tolist())


def test_samples_are_without_repetition():
    """A sample holds each row at most once, in ascending order, and every row where there are few enough."""
    drawn = sample(1000, 66, most=300)
    assert torch.equal(drawn, drawn.unique())
    assert drawn.numel() == 300
    assert not torch.equal(drawn, sample(1000, 67, most=300))
    assert torch.equal(sample(20, 66, most=300), torch.arange(20))
