"""What would hold the loop up is done beside it, in order, and what comes of it is handed over in the loop's thread."""

from __future__ import annotations

import threading

import pytest

from runtime.errands import Errands
from runtime.errors import ConfigError, EdgeadError
from runtime.host.wake import Call, Wake


@pytest.fixture
def errands():
    """Return errands, and what is set when one is done."""
    done = threading.Event()
    made = Errands(done.set)
    yield made, done
    made.close()


def test_work_is_done_elsewhere_and_handed_over_here(errands):
    """The work runs in another thread; its result arrives in the one that takes it, in the order asked for."""
    made, done = errands
    here, found = threading.get_ident(), []
    for number in range(3):
        made.run(
            lambda number=number: (number, threading.get_ident()),
            lambda result: found.append((result, threading.get_ident())),
        )
    while len(found) < 3:
        assert done.wait(10)
        done.clear()
        made.take()
    assert [result[0] for result, _ in found] == [0, 1, 2]
    assert {thread for _, thread in found} == {here}
    assert here not in {result[1] for result, _ in found}


@pytest.mark.parametrize(
    ("error", "text"), [(ConfigError("no such file"), "no such file"), (KeyError("x"), "KeyError: 'x'")]
)
def test_work_that_fails(errands, error, text):
    """An error arrives as a result of the one family, and the next errand is done all the same."""
    made, done = errands
    found = []

    def fail():
        raise error

    made.run(fail, found.append)
    made.run(lambda: 7, found.append)
    while len(found) < 2:
        assert done.wait(10)
        done.clear()
        made.take()
    assert (isinstance(found[0], EdgeadError), text in str(found[0]), found[1]) == (True, True, 7)


def test_closing_waits_for_what_was_asked(errands):
    """What was asked for before the end is done and handed over."""
    made, _ = errands
    found = []
    made.run(lambda: "written", found.append)
    made.close()
    assert found == ["written"]


def test_calls_reach_the_loop():
    """Every kind of call made since the last look is told once; an ended host hears nothing and raises nothing."""
    wake = Wake()
    assert wake.take() == set()
    for call in (Call.APPLY, Call.STOP, Call.APPLY):
        wake.call(call)
    assert wake.take() == {Call.APPLY, Call.STOP}
    assert wake.take() == set()
    wake.close()
    wake.call(Call.STOP)


def test_a_full_socket_loses_no_wake_up():
    """A loop that has not looked for long is called once more without waiting, wakes up, and is told of a stop too."""
    wake = Wake()
    for _ in range(100_000):
        wake.call(Call.ERRAND)
    wake.call(Call.STOP)
    assert wake.take() == {Call.ERRAND, Call.STOP}
    wake.close()
