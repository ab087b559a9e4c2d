"""The parity gate: what passes at which precision, and that every frame that fails is named with its figures."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.detector import DetectorResult
from runtime.engines.parity import LIMITS, compare_golden, compare_under, law_of
from runtime.inspection import Verdict, decide
from runtime.store.template import GoldenFrame

FRAME = np.zeros((4, 4), np.uint8)
RNG = np.random.default_rng(0)
#: A map with structure, largest value 1.
MAP = (RNG.random((8, 8), np.float32) ** 2).clip(0, 0.9)
MAP[0, 0] = 1.0


def golden(score=0.5, anomaly_map=MAP):
    """Return a golden frame."""
    return GoldenFrame(FRAME, anomaly_map, score)


def answer(score=0.5, anomaly_map=MAP):
    """Return what a backend answered."""
    return DetectorResult(anomaly_map, score)


@pytest.mark.parametrize("precision", LIMITS)
def test_the_same_answers_pass(precision):
    """The stored answers themselves pass at every precision, with all figures zero."""
    report = compare_golden([golden(), golden(0.1)], [answer(), answer(0.1)], 0.3, precision)
    assert report.passed
    assert report.as_json() == {
        "precision": precision, "frames": 2, "failed": [], "verdict_flips": 0, "worst_frame": 0,
        "score_difference": 0.0, "map_difference": 0.0,
        "least_correlation": None if precision == "fp32" else pytest.approx(1.0),
    }  # fmt: skip
    assert "2 golden frames agree" in report.sentence()


@pytest.mark.parametrize(("precision", "most"), [("fp32", 6e-4), ("fp16", 0.01), ("bf16", 0.05), ("int8", 0.05)])
def test_the_score_limit_of_each_precision(precision, most):
    """Just below its precision's limit a score passes, just above it fails by the score alone."""
    inside = compare_golden([golden()], [answer(0.5 + most * 0.49)], 1.0, precision)
    beyond = compare_golden([golden()], [answer(0.5 + most * 1.01)], 1.0, precision)
    assert inside.passed
    assert beyond.frames[0].failed == ("score",)
    assert beyond.frames[0].strain > 1 > inside.frames[0].strain


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("fp16", 0.01), ("bf16", 0.05)])
def test_the_map_limit_of_each_precision(precision, most):
    """One value of the map beyond its limit fails the frame by its map; the place's own limit is reported."""
    value, place = MAP.copy(), np.unravel_index(MAP.argmin(), MAP.shape)
    value[place] += most * 0.9
    assert compare_golden([golden()], [answer(anomaly_map=value)], None, precision).passed
    value[place] += most * 0.9
    frame = compare_golden([golden()], [answer(anomaly_map=value)], None, precision).frames[0]
    assert frame.failed == ("map",)
    assert frame.map_difference > frame.map_limit == pytest.approx(most, rel=0.1)


@pytest.mark.parametrize("precision", LIMITS)
def test_a_flipped_verdict_always_fails(precision):
    """Another verdict fails at any precision, however near the scores are; so does a score that is no number."""
    report = compare_golden([golden(0.5)], [answer(0.5 + 1e-6)], 0.5 + 5e-7, precision)
    assert report.frames[0].failed == ("verdict",)
    assert math.isinf(report.frames[0].strain)
    assert "verdict flips" in report.sentence()
    lost = compare_golden([golden()], [answer(math.nan)], 0.4, precision)
    assert "score" in lost.frames[0].failed
    json.dumps(lost.as_json(), allow_nan=False)


def test_a_shuffled_map_fails_by_its_correlation():
    """A map with the right values within the limit but another pattern is found by its correlation."""
    low = (MAP * 0.04).astype(np.float32)
    low[0, 0] = 0.02
    peak = golden(anomaly_map=np.where(MAP == 1.0, np.float32(1), low))
    weak = golden(anomaly_map=(low + np.float32(0.2) * np.eye(8, dtype=np.float32)))
    other = weak.anomaly_map + RNG.uniform(-0.049, 0.049, (8, 8)).astype(np.float32)
    frame = compare_golden(
        [peak, weak], [answer(anomaly_map=peak.anomaly_map), answer(anomaly_map=other)], None, "bf16"
    )
    assert [each.failed for each in frame.frames] == [(), ("correlation",)]
    assert 0 < frame.frames[1].correlation < LIMITS["bf16"].correlation


def test_a_flat_map_has_no_correlation():
    """A good part's map that varies less than what may differ is not judged by its correlation."""
    flat = np.full((8, 8), 1e-3, np.float32)
    flat[0, 0] = 2e-3
    found = flat + RNG.uniform(0, 5e-3, (8, 8)).astype(np.float32)
    report = compare_golden(
        [golden(), golden(1e-3, flat)], [answer(), answer(1e-3, found)], None, "fp16"
    )  # the scale is 1, the flat map's own values do not count
    assert report.passed
    assert report.frames[1].correlation is None


def test_every_failed_frame_is_named_first():
    """The sentence begins with the numbers of all that failed, then the worst one: a cut loses least."""
    expected = [golden(0.1 * index) for index in range(6)]
    found = [answer(0.1 * index + (0.01 * index if index % 2 else 0.0)) for index in range(6)]
    report = compare_golden(expected, found, None)
    assert [frame.index for frame in report.failed] == [1, 3, 5]
    assert report.sentence().startswith("golden frames 1, 3, 5 of 6 failed (fp32); frame 5: expected score 0.5, found")
    assert "frame 1:" in report.sentence()
    assert report.as_json()["failed"] == [1, 3, 5]
    assert report.worst.index == 5


def test_some_frames_under_the_law_of_all():
    """One frame alone is held to the scale of all golden frames, not to its own small one."""
    all_of_them = [golden(), golden(1e-4, MAP * np.float32(1e-3))]
    noisy = answer(5e-3, all_of_them[1].anomaly_map + np.float32(5e-3))
    assert compare_under(law_of(all_of_them, None, "fp16"), all_of_them[1:], [noisy]).passed
    assert not compare_golden(all_of_them[1:], [noisy], None, "fp16").passed


@pytest.mark.parametrize(
    ("found", "precision", "word"),
    [([], "fp32", "found 0"), ([answer()], "fp4", "fp4"), ([answer(anomaly_map=MAP[:4])], "fp32", "shape")],
)
def test_a_callers_mistake_is_raised(found, precision, word):
    """Another number of answers, a precision nobody knows and a map of another shape are no figures but errors."""
    with pytest.raises(ValueError, match=word):
        compare_golden([golden()], found, None, precision)


SCORES = st.floats(-10, 10, width=32)


@settings(deadline=None)  # a shared machine is no judge
@given(
    pairs=st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=5),
    threshold=st.none() | st.floats(-5, 5, width=32),
    precision=st.sampled_from([*LIMITS]),
)
def test_what_passes_is_never_another_verdict(pairs, threshold, precision):
    """Whatever scores come: a report that passes has no flip under the threshold and no score beyond its limit."""
    expected, found = [golden(score) for score, _ in pairs], [answer(score) for _, score in pairs]
    report = compare_golden(expected, found, threshold, precision)
    flips = [
        threshold is not None and Verdict.OK in {decide(a, threshold), decide(b, threshold)} and
        decide(a, threshold) is not decide(b, threshold) for a, b in pairs
    ]  # fmt: skip
    assert [frame.flipped for frame in report.frames] == flips
    assert report.passed is all(
        not flip and abs(b - a) <= frame.score_limit
        for flip, (a, b), frame in zip(flips, pairs, report.frames, strict=True)
    )
