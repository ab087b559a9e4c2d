"""OPTICS over pixels: the labels of scikit-learn, whatever the vectors, and cosines that are exact."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.cluster import OPTICS, cluster_optics_xi

from plugins.hetmm.optics import cluster, min_samples, processing, unit_grid
from plugins.hetmm.xi import extract


def at(*degrees):
    """Return unit vectors at these angles, float64 [N, 2]."""
    angles = np.deg2rad(np.array(degrees, float))
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def gram_of(vectors):
    """Return the exact cosines of vectors [N, C] as one pixel, float64 [1, N, N]."""
    units = unit_grid(torch.from_numpy(vectors))
    return (units @ units.T)[None]


def labels_of(vectors, smallest):
    """Return our labels of vectors [N, C]."""
    return cluster(gram_of(vectors), smallest)[0].numpy()


def mixed(rng, count, channels, *, copies, tightest=0.01):
    """Return vectors [N, C] around a few directions, tight and wide, with ``copies`` of them written over others."""
    directions = rng.standard_normal((rng.integers(1, 6), channels))
    spread = tightest ** rng.uniform(0, 1, len(directions))
    which = rng.integers(0, len(directions), count)
    vectors = directions[which] + spread[which, None] * rng.standard_normal((count, channels))
    vectors[rng.integers(0, count, copies)] = vectors[rng.integers(0, count, copies)]
    return vectors


def oracle(smallest, **how):
    """Return scikit-learn's OPTICS with the settings of the specification."""
    return OPTICS(min_samples=smallest, cluster_method="xi", xi=0.05, **how)


def fitted(vectors, smallest):
    """Return scikit-learn's OPTICS of the matrix of distances."""
    distances = (1 - gram_of(vectors)[0]).clamp_min(0).numpy()
    np.fill_diagonal(distances, 0)
    with np.errstate(all="ignore"):  # it divides reachabilities of 0
        return oracle(smallest, metric="precomputed").fit(distances)


def labels_callable(vectors, smallest):
    """Return scikit-learn's labels when it calls a function for every pair, as the authors do."""
    units = unit_grid(torch.from_numpy(vectors)).numpy()
    named = np.concatenate([np.arange(len(units))[:, None], units], 1)  # so that the function knows a point itself
    assert units.shape[1] > 15  # below, scikit-learn takes a tree, which needs the triangle inequality

    def distance(a, b):
        return 0.0 if a[0] == b[0] else max(0.0, 1 - a[1:] @ b[1:])

    with np.errstate(all="ignore"):
        return oracle(smallest, metric=distance).fit_predict(named)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.integers(20, 100),
    channels=st.integers(2, 64),
    smallest=st.integers(2, 6),
    copies=st.sampled_from([0, 0, 5, 30]),
    tightest=st.sampled_from([1e-2, 1e-4, 1e-7]),
    seed=st.integers(0, 10_000),
)
@example(count=100, channels=3, smallest=2, copies=90, tightest=0.01, seed=0)
@example(count=20, channels=40, smallest=20, copies=0, tightest=0.01, seed=1)
def test_labels_are_those_of_a_distance_matrix(*, count, channels, smallest, copies, tightest, seed):
    """Around mixed clusters, with copies and near copies or without, labels and the way to them are scikit-learn's."""
    vectors = mixed(np.random.default_rng(seed), count, channels, copies=copies, tightest=tightest)
    found, expected = labels_of(vectors, smallest), fitted(vectors, smallest)
    np.testing.assert_array_equal(found, expected.labels_)
    assert found.max() >= 0  # section 11.1: never all noise
    order, reach, predecessor = (each[0].numpy() for each in processing(gram_of(vectors), smallest))
    np.testing.assert_array_equal(order, expected.ordering_)
    np.testing.assert_array_equal(reach, expected.reachability_[order])
    np.testing.assert_array_equal(order[predecessor][1:], expected.predecessor_[order][1:])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    count=st.integers(20, 60), smallest=st.integers(2, 5), copies=st.sampled_from([0, 6]), seed=st.integers(0, 10_000)
)
def test_labels_are_those_of_a_called_metric(*, count, smallest, copies, seed):
    """The authors' way, one call a pair, gives the same labels."""
    vectors = mixed(np.random.default_rng(seed), count, 24, copies=copies)
    np.testing.assert_array_equal(labels_of(vectors, smallest), labels_callable(vectors, smallest))


@settings(max_examples=600, deadline=None, derandomize=True)
@given(
    levels=st.lists(st.integers(0, 12), min_size=4, max_size=40),
    smallest=st.integers(2, 4),
    seed=st.integers(0, 10_000),
)
def test_any_plot_is_cut_as_scikit_learn_cuts_it(*, levels, smallest, seed):
    """Plots no data would make, with level stretches, zeros and wild predecessors, are cut alike too."""
    plot = np.array([np.inf, *levels[1:]]) * 0.01
    rng = np.random.default_rng(seed)
    predecessor = np.array([-1, *(rng.integers(0, position) for position in range(1, len(plot)))])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, _ = cluster_optics_xi(
            reachability=plot,
            predecessor=predecessor,
            ordering=np.arange(len(plot)),
            min_samples=smallest,
            xi=0.05,
        )
    np.testing.assert_array_equal(extract(plot[None], predecessor[None], smallest)[0], expected)


def test_small_example_in_numbers():
    """I-15: order, reachabilities and labels of ten vectors, for two smallest clusters."""
    vectors = at(0, 1, 2, 4, 30, 31, 33, 34, 70, 120)
    order, reach, _ = processing(gram_of(vectors), 2)
    assert order.tolist() == [list(range(10))]
    plot = [np.inf, 0.000152, 0.000152, 0.000609, 0.101206, 0.000152, 0.000609, 0.000152, 0.190983, 0.357212]
    np.testing.assert_allclose(reach[0], plot, rtol=0, atol=1e-6)
    assert labels_of(vectors, 2).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, -1]
    assert labels_of(vectors, 3).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, -1]


@pytest.mark.parametrize("smallest", [2, 3, 7])
def test_level_plots_are_one_cluster(smallest):
    """I-15: orthogonal vectors, identical vectors, and vectors of zeros are one cluster each."""
    copies = np.repeat(np.random.default_rng(0).standard_normal((1, 16)), 30, 0)
    for vectors in (np.eye(30), copies, np.zeros((30, 16))):
        assert labels_of(vectors, smallest).tolist() == [0] * 30
        assert fitted(vectors, smallest).labels_.tolist() == [0] * 30


def test_pixels_do_not_see_each_other():
    """Many pixels at once have the labels each one has alone, in whatever company."""
    rng = np.random.default_rng(1)
    columns = [mixed(rng, 40, 8, copies=copies) for copies in (0, 0, 10, 35)]
    together = cluster(torch.cat([gram_of(vectors) for vectors in columns]), 3)
    for found, vectors in zip(together, columns, strict=True):
        assert found.tolist() == labels_of(vectors, 3).tolist()


def test_smallest_cluster_follows_the_references():
    """I-16: N div K, but never below 2."""
    counts = {60: 2, 119: 2, 179: 2, 180: 3, 209: 3, 219: 3, 240: 4, 280: 4, 320: 5, 391: 6}
    assert {count: min_samples(count, 60) for count in counts} == counts


def test_cosines_on_the_grid_are_exact():
    """Every float64 product of two grid vectors equals the exact sum, so no order of summation can change it."""
    rng = np.random.default_rng(2)
    units = unit_grid(torch.from_numpy(mixed(rng, 12, 300, copies=2)))
    found = units @ units.T
    exact = [
        [sum(Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)) for b in units.tolist()]
        for a in units.tolist()
    ]
    assert [[Fraction(x) for x in row] for row in found.tolist()] == exact
    assert torch.equal(units * 2.0**24, (units * 2.0**24).round())
    torch.testing.assert_close(found.diagonal(), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_vector_does_not_depend_on_its_neighbours():
    """A vector has the same bits whichever sheets and pixels it is put on the grid with, in any memory layout."""
    sheets = torch.from_numpy(np.random.default_rng(3).standard_normal((60, 301, 4, 5)))
    # So that the first number comes to lie between two points of the grid, where the norm's last bit decides.
    middle = torch.randint(1, 2**22, (60, 4, 5), generator=torch.Generator().manual_seed(0)).double().add(0.5) / 2**24
    sheets[:, 0] = middle * (sheets[:, 1:].square().sum(1) / (1 - middle.square())).sqrt()
    whole = unit_grid(sheets)
    assert whole.dtype == torch.float64
    assert torch.equal(unit_grid(sheets.to(memory_format=torch.channels_last)), whole)
    assert torch.equal(unit_grid(sheets[2:7, :, 1:, ::2]), whole[2:7, :, 1:, ::2])
    singly = [unit_grid(sheets[:, :, y, x].clone()) for y, x in np.ndindex(4, 5)]
    assert torch.equal(torch.stack(singly, 2).reshape(whole.shape), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_short_numbers_are_taken_as_they_are(dtype):
    """Sheets in a shorter format have the vectors of the same numbers in float64."""
    sheets = torch.from_numpy(np.random.default_rng(4).standard_normal((9, 37, 5))).to(dtype)
    assert torch.equal(unit_grid(sheets), unit_grid(sheets.double()))


def test_grid_keeps_zeros_and_its_input():
    """A vector of zeros stays one, a long one becomes a unit vector, and the sheets given are not written to."""
    sheets = torch.tensor([[0.0, 0.0], [3000.0, -4000.0]], dtype=torch.float64)
    before = sheets.clone()
    torch.testing.assert_close(
        unit_grid(sheets), torch.tensor([[0, 0], [0.6, -0.8]], dtype=torch.float64), rtol=0, atol=2.0**-25
    )
    assert torch.equal(sheets, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_vectors_that_are_no_numbers_are_refused(bad):
    """Section 14: NaN or infinity in features fails, naming the sheet."""
    sheets = torch.ones(4, 3, 2, 2)
    sheets[2, 1, 0, 1] = bad
    with pytest.raises(ValueError, match="sheet 2 of 4"):
        unit_grid(sheets)
