"""The states of a worker, event by event, and the state of the station that follows from them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.lane.supervisor import STOP_S
from runtime.lifecycle import State, station_state
from runtime.testing.played_worker import PlayedSupervisor, PlayedWorker
from runtime.worker.slots import Slots

S = 1_000_000_000
STARTING, READY, DEGRADED, STOPPING, FAILED = State

#: Every event in every state: what comes of it.
TRANSITIONS = {
    (STARTING, "ready"): READY,
    (STARTING, "died"): DEGRADED,
    (STARTING, "died once more than allowed"): FAILED,
    (STARTING, "dismissed"): STOPPING,
    (READY, "ready"): READY,
    (READY, "died"): DEGRADED,
    (READY, "died once more than allowed"): FAILED,
    (READY, "dismissed"): STOPPING,
    (DEGRADED, "ready"): READY,
    (DEGRADED, "died"): DEGRADED,
    (DEGRADED, "died once more than allowed"): FAILED,
    (DEGRADED, "dismissed"): STOPPING,
    (FAILED, "ready"): READY,
    (FAILED, "died"): FAILED,  # the budget is still spent
    (FAILED, "died once more than allowed"): FAILED,
    (FAILED, "dismissed"): STOPPING,
    (STOPPING, "died"): STOPPING,
    (STOPPING, "died once more than allowed"): STOPPING,
    (STOPPING, "dismissed"): STOPPING,
}


@pytest.fixture
def worker() -> Iterator[PlayedWorker]:
    """Return a supervisor that has started a worker and allows two deaths in 100 seconds."""
    slots = Slots.create(1, 64, 64)
    supervisor = PlayedSupervisor(start_timeout_s=60, hang_s=10, restart_budget=2, restart_window_s=100)
    played = supervisor.seat("top", {"op": "setup"}, slots)
    played.start_if_due(0)
    yield played
    played.stop(STOP_S)
    played.end.close()
    slots.close()


def happen(worker: PlayedWorker, event: str, now_ns: int) -> None:
    """Have one event happen to the worker."""
    if event == "ready":
        worker.ready(now_ns)
    elif event == "dismissed":
        worker.dismiss()
    else:
        for _ in range(1 if event == "died" else 3):
            worker.gone(now_ns, event)


ROUTES = {
    STARTING: (),
    READY: ("ready",),
    DEGRADED: ("died",),
    STOPPING: ("dismissed",),
    FAILED: ("died once more than allowed",),
}


@pytest.mark.parametrize(("state", "event"), TRANSITIONS)
def test_a_transition(worker, state, event):
    """In this state, this event leads where the table says."""
    for step in ROUTES[state]:
        happen(worker, step, S)
    assert worker.state is state
    happen(worker, event, 2 * S)
    assert worker.state is TRANSITIONS[state, event]


def test_the_table_is_complete():
    """Every state has a row for every event; only a worker that is gone cannot become ready any more."""
    events = {event for _, event in TRANSITIONS}
    missing = {(state, event) for state in State for event in events} - TRANSITIONS.keys()
    assert missing == {(STOPPING, "ready")}


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ([STARTING], STARTING),
        ([READY], READY),
        ([DEGRADED], DEGRADED),
        ([FAILED], FAILED),
        ([READY, READY], READY),
        ([READY, STARTING], STARTING),
        ([READY, DEGRADED], DEGRADED),
        ([READY, FAILED], DEGRADED),
        ([STARTING, DEGRADED], DEGRADED),
        ([STARTING, FAILED], DEGRADED),
        ([DEGRADED, FAILED], DEGRADED),
        ([FAILED, FAILED], FAILED),
    ],
)
def test_the_state_of_a_station(workers, expected):
    """A station is ready when all its cameras are, failed when all have failed, degraded when one is in trouble."""
    assert station_state(workers) is expected
    assert station_state(workers[::-1]) is expected
