"""The promise of the image threshold, tried on laws whose false-reject rate is known in closed form."""

import math

import numpy as np
import pytest

from calibration.threshold import RULE, conformal_threshold
from runtime.errors import ConfigError, EdgeadError

TRIALS = 1500

# Each law: how to draw n scores, and the chance that one more score is above t.
LAWS = {
    "normal": (lambda rng, n: rng.standard_normal(n), lambda t: 0.5 * math.erfc(t / math.sqrt(2))),
    "exponential": (lambda rng, n: rng.exponential(size=n), lambda t: math.exp(-t)),
    "cauchy": (lambda rng, n: rng.standard_cauchy(n), lambda t: 0.5 - math.atan(t) / math.pi),
    "ten steps": (lambda rng, n: rng.integers(0, 10, n) / 10, lambda t: (9 - round(t * 10)) / 10),
    "mostly one value": (lambda rng, n: (rng.random(n) < 0.03) * 1.0, lambda t: 0.03 if t < 1 else 0.0),
}


def realised(law, n, target):
    """Mean false-reject rate over many calibrations, and its standard error."""
    draw, rate_above = LAWS[law]
    rng = np.random.default_rng(20240607)
    rates = np.array([rate_above(conformal_threshold(draw(rng, n), target).value) for _ in range(TRIALS)])
    return rates.mean(), rates.std() / math.sqrt(TRIALS)


@pytest.mark.parametrize(("n", "target"), [(19, 0.05), (40, 0.1), (120, 0.01), (300, 0.02)])
@pytest.mark.parametrize("law", LAWS)
def test_mean_false_reject_rate_is_within_the_target(law, n, target):
    """For any law, ties included, the false-reject rate averaged over calibrations is at most the target."""
    mean, error = realised(law, n, target)
    assert mean <= target + 4 * error


@pytest.mark.parametrize("law", ["normal", "exponential", "cauchy"])
@pytest.mark.parametrize(("n", "target"), [(19, 0.05), (60, 0.1), (9, 0.01)])
def test_without_ties_the_bound_is_met_exactly(law, n, target):
    """For continuous laws the mean rate is the reported bound, no lower: good parts are not accepted for free."""
    bound = conformal_threshold(np.arange(n), target).bound
    mean, error = realised(law, n, target)
    assert mean == pytest.approx(bound, abs=4 * error)


@pytest.mark.parametrize(
    ("n", "target", "rank", "bound"),
    [
        (99, 0.01, 99, 0.01),
        (100, 0.01, 100, 1 / 101),
        (19, 0.05, 19, 0.05),
        (99, 0.29, 71, 0.29),
        (99, 0.07, 93, 0.07),
        (19, 0.95, 1, 0.95),
        (4, 0.5, 3, 0.4),
    ],
)
def test_the_rank_is_the_stated_order_statistic(n, target, rank, bound):
    """The threshold is the ceil((n + 1)(1 - target))-th smallest score, unhurt by binary fractions."""
    scores = np.random.default_rng(1).permutation(np.arange(1, n + 1))
    threshold = conformal_threshold(scores, target)
    assert (threshold.value, threshold.bound) == (rank, bound)
    assert threshold.bound <= threshold.target


@pytest.mark.parametrize("n", [1, 5, 98])
def test_too_few_parts_give_the_largest_score_and_the_honest_bound(n):
    """Below 99 parts one in a hundred cannot be promised: the bound says 1 / (n + 1) and the target is missed."""
    threshold = conformal_threshold(np.arange(n), 0.01)
    assert (threshold.value, threshold.bound, threshold.target) == (n - 1, 1 / (n + 1), 0.01)
    assert threshold.bound > threshold.target
    assert (threshold.n, threshold.rule) == (n, RULE)


def test_the_threshold_is_one_of_the_scores_and_order_does_not_matter():
    """No interpolation between scores, and the same threshold for any order, with the input left alone."""
    scores = np.random.default_rng(2).random(50).astype(np.float32)
    before = scores.copy()
    threshold = conformal_threshold(scores, 0.1)
    assert threshold.value in scores.astype(np.float64)
    assert conformal_threshold(scores[::-1], 0.1) == threshold
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("target", [0, 1, -0.1, 1.5, math.nan])
def test_a_target_outside_zero_to_one_is_the_integrators_error(target):
    """Rates of none, of all, or of no meaning are refused."""
    with pytest.raises(ConfigError, match="between 0 and 1"):
        conformal_threshold([0.1, 0.2], target)


@pytest.mark.parametrize(
    ("scores", "match"),
    [([], "at least one"), ([[0.1]], r"shape \[1, 1\]"), ([0.1, math.nan], "nan at position 1"), ([math.inf], "inf")],
)
def test_scores_a_threshold_may_not_rest_on_are_refused(scores, match):
    """No scores, a matrix, NaN or infinity are errors saying which."""
    with pytest.raises(EdgeadError, match=match):
        conformal_threshold(scores, 0.1)
