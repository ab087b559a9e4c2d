"""Inspections: no combination of fields that is not a good part can be OK."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.inspection import ErrorWord, Inspection, Verdict, decide

ANY_FLOAT = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.5])


def inspection(**values: object) -> Inspection:
    """Build an inspection with the given fields and plain identities."""
    identity = {"result_id": "r", "seq": 1, "station": "s", "camera": "c", "session": 0, "frame_id": 0}
    return Inspection(**{**identity, **values})


def _is_sound(verdict: Verdict, error: ErrorWord, score: float | None, threshold: float | None) -> bool:
    """Tell, from the protocol's text and not from the code, whether a record may exist."""
    numbers = [number for number in (score, threshold) if number is not None]
    if not all(math.isfinite(number) for number in numbers):
        return False
    if verdict is Verdict.NOT_DECIDABLE:
        return error is not ErrorWord.NONE
    if error is not ErrorWord.NONE or len(numbers) < 2:
        return False
    return (verdict is Verdict.OK and score <= threshold) or (verdict is Verdict.NOT_OK and score > threshold)


@given(st.sampled_from(Verdict), st.sampled_from(ErrorWord), st.none() | ANY_FLOAT, st.none() | ANY_FLOAT)
def test_exactly_the_sound_records_exist(verdict, error, score, threshold):
    """A record is built if and only if score, threshold, error word and verdict agree with one another."""
    if _is_sound(verdict, error, score, threshold):
        assert inspection(verdict=verdict, error=error, score=score, threshold=threshold).verdict is verdict
    else:
        with pytest.raises(ValueError, match=r"inspection|finite|contradicts"):
            inspection(verdict=verdict, error=error, score=score, threshold=threshold)


BAD_NUMBERS = (None, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(("score", "threshold"), [p for p in product((*BAD_NUMBERS, 0.5), repeat=2) if p != (0.5, 0.5)])
@pytest.mark.parametrize("error", ErrorWord)
def test_nothing_without_two_finite_numbers_is_ok(score, threshold, error):
    """Without a finite score and a finite threshold nothing is OK or NotOK, with any error word or none."""
    for verdict in (Verdict.OK, Verdict.NOT_OK):
        with pytest.raises(ValueError, match="found"):
            inspection(verdict=verdict, error=error, score=score, threshold=threshold)


@pytest.mark.parametrize(
    "values", [{"verdict": 1}, {"verdict": 3}, {"verdict": True}, {"error": "none"}, {"error": None}, {"verdict": None}]
)
def test_plain_numbers_and_words_are_no_verdicts(values):
    """A number that equals a verdict, or a text that equals an error word, is not taken for one."""
    good = {"verdict": Verdict.OK, "score": 0.1, "threshold": 0.2}
    assert inspection(**good).verdict is Verdict.OK
    with pytest.raises(ValueError, match="found"):
        inspection(**(good | values))


def test_a_pixel_threshold_is_finite_too():
    """A pixel threshold of NaN would draw no defect anywhere; it cannot be recorded."""
    with pytest.raises(ValueError, match="pixel_threshold"):
        inspection(verdict=Verdict.OK, score=0.1, threshold=0.2, pixel_threshold=math.nan)


def test_an_inspection_does_not_change():
    """A record is immutable once made."""
    record = inspection(verdict=Verdict.NOT_DECIDABLE, error=ErrorWord.OVERLOAD)
    with pytest.raises(FrozenInstanceError):
        record.verdict = Verdict.OK


@given(ANY_FLOAT, ANY_FLOAT)
def test_decide_is_not_ok_above_the_threshold_and_raises_on_nonsense(score, threshold):
    """At the threshold is OK, above it NotOK; a number that is not finite decides nothing."""
    if math.isfinite(score) and math.isfinite(threshold):
        assert decide(score, threshold) is (
            Verdict.NOT_OK if score - threshold > 0 or score > threshold else Verdict.OK
        )
        assert decide(threshold, threshold) is Verdict.OK
        above = math.nextafter(threshold, math.inf)
        assert math.isinf(above) or decide(above, threshold) is Verdict.NOT_OK
    else:
        with pytest.raises(ValueError, match="finite"):
            decide(score, threshold)


def test_the_numbers_of_verdicts_and_errors_are_fixed():
    """PLC programs hold these numbers: they are those of OPC 40001-101 and of docs/protocol.md, for ever."""
    assert {verdict.label: int(verdict) for verdict in Verdict} == {
        "Undefined": 0,
        "OK": 1,
        "NotOK": 2,
        "NotDecidable": 3,
    }
    assert {word.value: word.code for word in ErrorWord} == {
        "none": 0,
        "camera_lost": 1,
        "frame_bad": 2,
        "detector_timeout": 3,
        "detector_crash": 4,
        "template_missing": 5,
        "activation_refused": 6,
        "sink_down": 7,
        "disk_full": 8,
        "clock_unsynced": 9,
        "bad_command": 10,
        "overload": 11,
        "detector_error": 12,
        "result_bad": 13,
        "detector_starting": 14,
        "stopping": 15,
        "threshold_missing": 16,
        "host_lost": 17,
        "frame_exposure": 18,
        "frame_repeated": 19,
    }
