"""The metrics against scikit-learn, an independent brute force, cases worked by hand, and invariances."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from calibration.metrics import auroc, average_precision, pixel_metrics, pro
from runtime.errors import EdgeadError

LEVELS = st.integers(0, 6)  # few distinct values, so that ties are the rule


@st.composite
def labelled_scores(draw):
    """Labels with both classes present and scores with many ties."""
    n = draw(st.integers(2, 40))
    labels = draw(hnp.arrays(bool, n).filter(lambda a: a.any() and not a.all()))
    return labels, draw(hnp.arrays(np.float64, n, elements=LEVELS)) / 7


@st.composite
def maps_and_masks(draw):
    """One to three small maps with ties, and masks that hold both classes between them."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(2, 6)))
    masks = draw(hnp.arrays(bool, shape).filter(lambda a: a.any() and not a.all()))
    return draw(hnp.arrays(np.float32, shape, elements=LEVELS)), masks


def regions_of(mask):
    """8-connected regions by flood fill: sets of (row, column)."""
    todo, regions = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while todo:
        region, edge = set(), [todo.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            edge += near
        regions.append(region)
    return regions


def pro_by_definition(maps, masks, limit):
    """Area under the PRO curve in exact fractions, one threshold after the other."""
    points = [(Fraction(0), Fraction(0))]
    regions = [
        (anomaly_map, region) for anomaly_map, mask in zip(maps, masks, strict=True) for region in regions_of(mask)
    ]
    for threshold in sorted({float(v) for v in np.ravel(maps)}, reverse=True):
        rate = Fraction(int(((maps >= threshold) & ~masks).sum()), int((~masks).sum()))
        overlaps = [Fraction(sum(bool(m[p] >= threshold) for p in region), len(region)) for m, region in regions]
        points.append((rate, sum(overlaps) / len(overlaps)))
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(points):
        right = min(x1, limit)
        if right > x0:
            at_right = y0 + (y1 - y0) * (right - x0) / (x1 - x0)
            area += (right - x0) * (y0 + at_right) / 2
    return float(area / limit)


@settings(deadline=None)
@given(labelled_scores())
def test_auroc_and_average_precision_are_scikit_learns(case):
    """On any labels and scores, ties included, both equal scikit-learn's values."""
    labels, scores = case
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_auroc_counts_a_tie_as_half():
    """One defect above one of two good scores and tied with the other wins one and a half of two."""
    assert auroc([0, 0, 1], [0.1, 0.5, 0.5]) == 0.75


def test_one_class_has_no_auroc():
    """Without both classes there is nothing to rank: None, not 0 or 1."""
    assert auroc([1, 1], [0.1, 0.2]) is None
    assert auroc([0, 0], [0.1, 0.2]) is None
    assert average_precision([0, 0], [0.1, 0.2]) is None
    assert average_precision([1, 1], [0.1, 0.2]) == 1.0


@settings(deadline=None)
@given(maps_and_masks(), st.sampled_from([Fraction(1, 20), Fraction(3, 10), Fraction(1, 2), Fraction(1)]))
def test_pro_is_its_definition(case, limit):
    """On small maps with ties, PRO equals the area computed threshold by threshold in exact fractions."""
    maps, masks = case
    assert pro(maps, masks, float(limit)) == pytest.approx(pro_by_definition(maps, masks, limit), abs=1e-9)


@settings(deadline=None)
@given(maps_and_masks())
def test_pixel_metrics_are_the_three_metrics_of_the_flat_pixels(case):
    """The shared sort gives what each metric gives alone."""
    maps, masks = case
    found = pixel_metrics(maps, masks)
    assert found.auroc == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found.ap == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found.pro == pro(maps, masks)


def test_pro_worked_by_hand():
    """A region found before any false positive, and one found after half the good pixels: 0.5 up to the limit."""
    mask = np.array([[1, 0, 0, 0, 0, 1]], dtype=bool)
    anomaly_map = np.array([[9, 8, 7, 1, 1, 5]], dtype=np.float32)
    assert pro([anomaly_map], [mask]) == pytest.approx(0.5)
    assert pro([anomaly_map], [mask], limit=1.0) == pytest.approx(0.75)


def test_pro_weighs_regions_alike_and_joins_diagonals():
    """Two pixels touching at a corner are one region, which then weighs as much as a single pixel elsewhere."""
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1]], dtype=bool)
    anomaly_map = np.where(mask, 0, 0.5).astype(np.float32)
    anomaly_map[1, 3] = 1
    assert pro([anomaly_map], [mask], limit=0.5) == pytest.approx(0.5)
    anomaly_map[1, 3], anomaly_map[0, 0] = 0, 1
    assert pro([anomaly_map], [mask], limit=0.5) == pytest.approx(0.25)


@settings(deadline=None)
@given(maps_and_masks())
def test_metrics_ignore_monotone_transforms(case):
    """Only the order of the values matters: an increasing transform changes no metric."""
    maps, masks = case
    assert pixel_metrics(np.exp(maps / 3) - 100, masks) == pixel_metrics(maps, masks)


@settings(deadline=None)
@given(maps_and_masks())
def test_a_perfect_map_scores_one_and_a_constant_map_chance(case):
    """The mask itself gives 1 in every metric; a constant gives 0.5, the share of defects, and limit / 2."""
    _, masks = case
    perfect = pixel_metrics(masks.astype(np.float32), masks)
    assert (perfect.auroc, perfect.ap, perfect.pro) == (1.0, 1.0, pytest.approx(1.0))
    constant = pixel_metrics(np.zeros(masks.shape, np.float32), masks)
    assert (constant.auroc, constant.ap) == (0.5, pytest.approx(masks.mean()))
    assert constant.pro == pytest.approx(0.15)


def test_maps_of_different_sizes_and_half_precision_are_one_population():
    """A list of float16 maps of unlike sizes gives what the same pixels give in one row."""
    rng = np.random.default_rng(5)
    maps = [rng.integers(0, 9, shape).astype(np.float16) for shape in ((3, 5), (4, 2))]
    masks = [np.zeros((3, 5), bool), np.eye(4, 2, dtype=bool)]
    flat = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    assert pixel_metrics(maps, masks).auroc == pytest.approx(roc_auc_score(flat[1], flat[0]), abs=1e-12)


def test_metrics_without_a_defect_pixel_are_not_defined():
    """A set of good images only has neither AUROC nor AP nor PRO."""
    found = pixel_metrics(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), dtype=bool))
    assert (found.auroc, found.ap, found.pro) == (None, None, None)


def test_input_stays_as_it_was():
    """Sorting happens on a copy: maps, scores and labels are not reordered."""
    maps, masks = np.array([[[3.0, 1.0], [2.0, 0.0]]]), np.array([[[True, False], [False, False]]])
    before = maps.copy()
    pixel_metrics(maps, masks)
    auroc(masks[0, 0], maps[0, 0])
    np.testing.assert_array_equal(maps, before)


@pytest.mark.parametrize("place", [(0, 0, 0), (0, 1, 1)])
def test_nan_is_refused_wherever_it_is(place):
    """NaN among defect or good values is an error that says so, never a rank."""
    maps, masks = np.ones((1, 2, 2)), np.array([[[True, False], [False, False]]])
    maps[place] = np.nan
    with pytest.raises(EdgeadError, match="found 1 NaN"):
        pixel_metrics(maps, masks)
    with pytest.raises(EdgeadError, match="found 1 NaN"):
        auroc(masks.ravel(), maps.ravel())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: auroc([0, 1], [0.5]), "one length"),
        (lambda: auroc([0, 2], [0.5, 0.6]), "labels 0"),
        (lambda: pro(np.zeros((1, 2, 2)), np.zeros((1, 3, 3), bool)), "resize_mask"),
        (lambda: pro(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), np.uint8)), "bool mask"),
        (lambda: pro([], []), "at least one"),
        (lambda: pro(np.zeros((1, 2, 2)), np.ones((1, 2, 2), bool), limit=0.0), "limit"),
    ],
)
def test_unfit_input_is_refused(call, match):
    """Lengths, labels, shapes, dtypes and limits that make no sense are errors naming the matter."""
    with pytest.raises(EdgeadError, match=match):
        call()
