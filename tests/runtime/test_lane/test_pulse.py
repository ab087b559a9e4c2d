"""When an idle worker is asked for a sign of life or a self-test, and that a busy one never is."""

from __future__ import annotations

import pytest

from runtime.lane.pulse import HEARTBEAT_S, Pulse

MS = 1_000_000
S = 1000 * MS
TEST_S = 10


def run(pulse: Pulse, seconds: int, busy_at, step_ms: int = 100) -> list[tuple[float, bool]]:
    """Ask every ``step_ms`` and answer at once; return when something was asked, in seconds, and whether a test."""
    asked = []
    for ms in range(0, seconds * 1000, step_ms):
        found = pulse.ask(ms * MS, idle=not busy_at(ms / 1000))
        if found is not None:
            asked.append((ms / 1000, found))
            pulse.answered(ms * MS)
    return asked


@pytest.fixture
def pulse() -> Pulse:
    """Return the pulse of a worker that became ready at 0, with a self-test every ten seconds."""
    made = Pulse(TEST_S * S)
    made.begin(0)
    return made


def test_an_idle_worker_is_asked_every_second(pulse):
    """Without any frame there is a sign of life a second, and a self-test every ten."""
    asked = run(pulse, 31, lambda _: False)
    assert [at for at, _ in asked] == [HEARTBEAT_S * (number + 1) for number in range(30)]
    assert [at for at, test in asked if test] == [10, 20, 30]


def test_a_busy_worker_is_not_asked(pulse):
    """While it holds frames its answers are its signs of life."""
    assert run(pulse, 100, lambda _: True) == []


def test_a_self_test_follows_an_answer(pulse):
    """On a line with a part every two seconds the test is put right behind a frame, never just before the next."""
    asked = run(pulse, 60, lambda at: at % 2 < 0.5)
    tests = [at for at, test in asked if test]
    assert len(tests) >= 5
    assert {at % 2 for at in tests} == {0.5}


def test_no_self_test():
    """With a period of 0 only signs of life are asked for."""
    never = Pulse(0)
    never.begin(0)
    asked = run(never, 100, lambda at: at % 7 < 1)
    assert len(asked) > 50
    assert not any(test for _, test in asked)


def test_one_question_at_a_time(pulse):
    """Until it is answered nothing else is asked: the link of a hung worker does not fill up."""
    assert pulse.ask(2 * S, idle=True) is False
    assert pulse.ask(50 * S, idle=True) is None
    assert pulse.asked_ns == 2 * S
    pulse.answered(51 * S)
    assert pulse.ask(51 * S, idle=True) is True


def test_an_answer_nobody_asked_for(pulse):
    """An answer without a question is refused."""
    with pytest.raises(ValueError, match="nobody asked"):
        pulse.answered(S)


def test_a_fresh_worker_begins_anew(pulse):
    """What the last worker was asked is not expected of the next one, which has just proven itself."""
    pulse.ask(9 * S, idle=True)
    pulse.begin(9 * S)
    assert pulse.asked_ns is None
    assert pulse.ask(9 * S, idle=True) is None
    assert pulse.ask(18 * S, idle=True) is False
