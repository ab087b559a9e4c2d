"""Which trigger is one raised before: the same number, part and time, as far as the records tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.host.repeats import MOST_LOOKED_AT, RESENT_NS, raised_before
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.ledger import Ledger
from runtime.trigger import TriggerHeader

NOW = 10**18
HEADER = TriggerHeader("top", 2**63 + 5, "SN-1", raised_ns=77)


@pytest.fixture
def ledger(tmp_path):
    """Return a ledger that is closed at the end."""
    with Ledger(tmp_path / "ledger.sqlite", "line1") as made:
        yield made


def answered(ledger: Ledger, header: TriggerHeader = HEADER, error: ErrorWord = ErrorWord.CAMERA_LOST) -> int:
    """Record a trigger and its answer; return the number of the inspection."""
    number = ledger.trigger(
        "top", received_ns=NOW, deadline_ns=NOW, trigger_id=header.trigger_id, part_id=header.part_id
    )
    made = Inspection(
        result_id="r", seq=ledger.next_seq, station="line1", camera="top", session=0, frame_id=0,
        verdict=Verdict.NOT_DECIDABLE, error=error, trigger_id=header.trigger_id, part_id=header.part_id,
        triggered_ns=None if error is ErrorWord.HOST_LOST else header.raised_ns,
    )  # fmt: skip
    ledger.inspect(number, made)
    return made.seq


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(
    ("change", "same"),
    [({}, True), ({"part_id": "SN-2"}, False), ({"raised_ns": 78}, False), ({"raised_ns": None}, False)],
    ids=str,
)
def test_number_part_and_time_make_a_trigger(ledger, change, same, written):
    """All three the same: the first answer, on the disk or not yet; any other: a new trigger."""
    seq = answered(ledger)
    if written:
        ledger.commit()
    found = raised_before(ledger, replace(HEADER, **change), NOW, 0)
    assert (found.seq if found else None) == (seq if same else None)


def test_a_trigger_is_found_behind_others_of_its_number(ledger):
    """Up to the newest so many of one number are looked at; behind those nothing is found."""
    seq = answered(ledger)
    for number in range(MOST_LOOKED_AT - 1):
        answered(ledger, replace(HEADER, part_id=f"other {number}"))
    ledger.commit()
    assert raised_before(ledger, HEADER, NOW, 0).seq == seq
    answered(ledger, replace(HEADER, part_id="one more"))
    assert raised_before(ledger, HEADER, NOW, 0) is None


@pytest.mark.parametrize(("after_ns", "same"), [(RESENT_NS, True), (RESENT_NS + 1, False)])
def test_of_a_trigger_a_killed_host_left_only_number_and_part_are_known(ledger, after_ns, same):
    """For ten minutes the same number and part is that trigger sent again; later a counter may have begun anew."""
    answered(ledger, error=ErrorWord.HOST_LOST)
    assert (raised_before(ledger, HEADER, NOW + after_ns, 0) is not None) is same


@pytest.mark.parametrize(("repeat_ns", "same"), [(0, False), (100, True), (99, False)])
def test_the_window_of_the_station_file(ledger, repeat_ns, same):
    """Raised at another time, the same number and part is the same trigger within the window, and only there."""
    answered(ledger)
    assert (raised_before(ledger, replace(HEADER, raised_ns=78), NOW + 100, repeat_ns) is not None) is same
