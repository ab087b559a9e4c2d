"""The supervisor: its clocks, its restart budget, its signs of life, and an end from every state.

Which event leads from which state to which: ``test_lifecycle.py``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from runtime.lane.backoff import FIRST_BACKOFF_S, HEALTHY_S, MAX_BACKOFF_S
from runtime.lane.pulse import HEARTBEAT_S
from runtime.lane.supervisor import STOP_S
from runtime.lifecycle import State
from runtime.testing.played_worker import PlayedSupervisor, PlayedWorker
from runtime.worker.slots import Slots

S = 1_000_000_000
BUDGET, WINDOW_S = 20, 3600


@pytest.fixture
def worker() -> Iterator[PlayedWorker]:
    """Return a supervisor that has started nothing yet.

    A worker may take 60 s to load and 10 s over a frame, die 20 times an hour, and proves itself every 30 s.
    """
    slots = Slots.create(1, 64, 64)
    supervisor = PlayedSupervisor(
        start_timeout_s=60, hang_s=10, restart_budget=BUDGET, restart_window_s=WINDOW_S, self_test_s=30
    )
    played = supervisor.seat("top", {"op": "setup"}, slots)
    yield played
    played.stop(STOP_S)
    if played.starts:
        played.end.close()
    slots.close()


def start(worker: PlayedWorker, now_ns: int) -> None:
    """Start the worker and have it say that it is ready."""
    assert worker.start_if_due(now_ns)
    worker.ready(now_ns)


def die(worker: PlayedWorker, now_ns: int) -> float:
    """Bury the worker; return the pause before its next start, in seconds."""
    worker.gone(now_ns, "died")
    return (worker.next_due_ns(None) - now_ns) / S


def test_starting_to_ready(worker):
    """A worker is started at once, gets its setup first, and is ready when it says so."""
    assert worker.state is State.STARTING
    assert worker.pid is None
    assert worker.start_if_due(5 * S)
    assert worker.played() == {"op": "setup"}
    assert (worker.state, worker.pid) == (State.STARTING, 1)
    assert worker.next_due_ns(None) == 65 * S
    worker.ready(7 * S)
    assert worker.state is State.READY
    assert worker.next_due_ns(None) == (7 + HEARTBEAT_S) * S


def test_a_living_worker_is_not_started_again(worker):
    """While there is a process no second one is started."""
    start(worker, 0)
    assert not worker.start_if_due(10**6 * S)
    assert worker.starts == 1


def test_starting_to_degraded(worker):
    """A worker that dies while it loads is killed, counted, and started again after its pause, not before."""
    worker.start_if_due(0)
    assert die(worker, S) == FIRST_BACKOFF_S
    assert (worker.state, worker.restarts, worker.pid) == (State.DEGRADED, 1, None)
    assert worker.process.killed
    assert worker.last_error == "died (exit status -9)"
    assert not worker.start_if_due(S + int(FIRST_BACKOFF_S * S) - 1)
    assert worker.start_if_due(S + int(FIRST_BACKOFF_S * S))
    assert worker.state is State.DEGRADED


def test_degraded_to_ready(worker):
    """A worker that comes back ready clears the error and keeps the count."""
    worker.start_if_due(0)
    die(worker, S)
    start(worker, 2 * S)
    assert (worker.state, worker.restarts, worker.last_error) == (State.READY, 1, "")


def test_ready_to_degraded(worker):
    """A worker that dies in service is buried: its line is closed and what is sent to it is refused."""
    start(worker, 0)
    die(worker, S)
    assert (worker.state, worker.link) == (State.DEGRADED, None)
    with pytest.raises(EOFError):
        worker.send({"op": "inspect"})
    assert worker.played() == {"op": "setup"}
    with pytest.raises(EOFError):
        worker.played()


def test_degraded_to_degraded(worker):
    """Each early death doubles the pause, up to the longest one."""
    pauses = []
    now_ns = 0
    for _ in range(12):
        worker.start_if_due(now_ns)
        pauses.append(die(worker, now_ns))
        now_ns = worker.next_due_ns(None)
    assert pauses == [min(FIRST_BACKOFF_S * 2**n, MAX_BACKOFF_S) for n in range(12)]
    assert worker.restarts == 12


def test_a_healthy_worker_starts_the_back_off_anew(worker):
    """After a minute of being ready the next death is a first one again."""
    for _ in range(5):
        now_ns = worker.next_due_ns(None)
        start(worker, now_ns)
        die(worker, now_ns)
    begun_ns = worker.next_due_ns(None)
    start(worker, begun_ns)
    assert die(worker, begun_ns + int(HEALTHY_S * S) + 1) == FIRST_BACKOFF_S


def test_loading_slowly_is_not_health(worker):
    """A worker that never becomes ready backs off further, however long it took to fail."""
    pauses = []
    for now_ns in (0, 1000 * S, 2000 * S):
        worker.start_if_due(now_ns)
        pauses.append(die(worker, now_ns + 500 * S))
    assert pauses == [FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S]


def test_not_ready_in_time(worker):
    """A worker that loads for longer than allowed is overdue, just after the moment it was announced for."""
    worker.start_if_due(S)
    due_ns = worker.next_due_ns(None)
    assert worker.overdue(due_ns, None) is None
    assert worker.overdue(due_ns + 1, None) == "not ready after 60 s"


def test_silent_over_a_frame(worker):
    """A ready worker that was asked nothing is overdue only while it holds a frame, and only after its time."""
    start(worker, 0)
    assert worker.overdue(10**6 * S, None) is None
    assert worker.next_due_ns(100 * S) == 110 * S
    assert worker.overdue(110 * S, 100 * S) is None
    assert worker.overdue(110 * S + 1, 100 * S) == "silent for 10 s over one frame"


def test_a_buried_worker_is_not_overdue(worker):
    """Between two workers nothing is overdue but the next start."""
    worker.start_if_due(0)
    die(worker, S)
    assert worker.overdue(10**6 * S, 0) is None


def test_a_machine_that_starts_no_process(worker):
    """When the machine refuses a process the supervisor says so, waits, and tries again; nothing is raised."""
    worker.supervisor.refusal = OSError(errno.EAGAIN, "no more processes")
    assert not worker.start_if_due(0)
    assert (worker.state, worker.restarts, worker.link) == (State.DEGRADED, 1, None)
    assert "no more processes" in worker.last_error
    worker.supervisor.refusal = None
    assert worker.start_if_due(worker.next_due_ns(None))


def test_a_process_that_cannot_be_killed(worker):
    """A worker stuck in a system call does not hold the host up: it is left behind and a new one started."""
    start(worker, 0)
    worker.process.stuck = True
    worker.gone(S, "silent")
    assert worker.last_error == "silent (killed, not gone yet)"
    assert worker.start_if_due(worker.next_due_ns(None))
    assert worker.starts == 2


def test_a_worker_that_died_before_it_read(worker):
    """A send to a dead worker is EOFError, which the lane expects, and not a broken pipe."""
    start(worker, 0)
    worker.end.close()
    with pytest.raises(EOFError):
        worker.send({"op": "inspect"})


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.DEGRADED, State.STOPPING])
def test_stop_from_every_state(worker, state):
    """Stop ends in STOPPING from every state, asks a ready worker first, and nothing is started after it."""
    worker.start_if_due(0)
    if state is not State.STARTING:
        worker.ready(0)
    if state is State.DEGRADED:
        die(worker, 0)
    if state is State.STOPPING:
        worker.stop(STOP_S)
    assert worker.state is state
    worker.stop(STOP_S)
    assert (worker.state, worker.pid, worker.link) == (State.STOPPING, None, None)
    assert worker.next_due_ns(0) is None
    assert not worker.start_if_due(10**9 * S)
    assert worker.played() == {"op": "setup"}
    if state is not State.DEGRADED:  # nobody is there to be asked
        assert worker.played() == {"op": "stop"}
        assert worker.process.killed is (state is State.STARTING)


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.DEGRADED])
def test_a_worker_that_only_loads_is_not_waited_for(worker, state):
    """Who is asked to end while it loads is killed, and its memory is free; one that inspects may end in order."""
    worker.start_if_due(0)
    if state is State.READY:
        worker.ready(0)
    if state is State.DEGRADED:
        die(worker, 0)
        worker.start_if_due(worker.next_due_ns(None))
    worker.dismiss()
    assert worker.process.killed is (state is not State.READY)
    assert worker.ended(S) is worker.process.killed


def test_stop_before_the_first_start(worker):
    """A supervisor that never started anything stops without a word."""
    worker.stop(STOP_S)
    assert worker.state is State.STOPPING
    assert not worker.start_if_due(S)


def test_stop_of_a_stuck_worker(worker):
    """A worker that ignores the request is killed; one that cannot be killed is left behind."""
    start(worker, 0)
    worker.process.stuck = True
    worker.stop(STOP_S)
    assert worker.process.killed
    assert worker.state is State.STOPPING


def spend(worker: PlayedWorker, now_ns: int) -> None:
    """Have the worker die as often as its budget allows."""
    for _ in range(BUDGET):
        worker.start_if_due(worker.next_due_ns(None))
        die(worker, now_ns)
    assert worker.state is State.DEGRADED


def test_a_spent_budget(worker):
    """One death more than allowed is FAILED; a restart is still tried, at the longest pause, for ever."""
    spend(worker, 0)
    for _ in range(5):
        now_ns = worker.next_due_ns(None)
        assert worker.start_if_due(now_ns)
        assert die(worker, now_ns) == MAX_BACKOFF_S
        assert worker.state is State.FAILED


def test_a_failed_worker_that_comes_back(worker):
    """Ready ends FAILED at once; while the budget is spent the next death is FAILED again, with the longest pause."""
    spend(worker, 0)
    die(worker, 0)
    start(worker, 30 * S)
    assert (worker.state, worker.last_error) == (State.READY, "")
    assert die(worker, 1000 * S) == MAX_BACKOFF_S
    assert worker.state is State.FAILED


def test_deaths_are_forgotten_after_the_window(worker):
    """Only deaths within the window count: an old one is a budget again."""
    spend(worker, 0)
    start(worker, worker.next_due_ns(None))
    assert die(worker, WINDOW_S * S + 1) == FIRST_BACKOFF_S
    assert worker.state is State.DEGRADED


def test_an_idle_worker_is_asked_and_its_answer_counts(worker):
    """A sign of life is asked for after a second, a self-test after thirty, and each answer is noted."""
    start(worker, 0)
    worker.played()
    worker.beat(0, idle=True)
    for second in range(1, 31):
        worker.beat(second * S, idle=True)
        assert worker.played() == {"op": "ping", "golden": second == 30}
        worker.alive(second * S, golden=second == 30)
    assert worker.self_tests == 1


def test_a_busy_or_loading_worker_is_not_asked(worker):
    """A worker that loads or holds a frame has something better to answer."""
    worker.start_if_due(0)
    worker.beat(50 * S, idle=True)
    worker.ready(51 * S)
    worker.beat(90 * S, idle=False)
    assert worker.played() == {"op": "setup"}
    worker.end._socket.settimeout(0.05)
    with pytest.raises(TimeoutError):
        worker.end._socket.recv(100)


def test_silent_while_idle(worker):
    """A worker that does not answer a sign of life is overdue after its time, before any part has come."""
    start(worker, 0)
    worker.beat(2 * S, idle=True)
    assert worker.next_due_ns(None) == 12 * S
    assert worker.overdue(12 * S, None) is None
    assert worker.overdue(12 * S + 1, None) == "silent for 10 s while idle"
    assert worker.overdue(12 * S + 1, 11 * S) == "silent for 10 s while idle"  # the frame behind it does not help
    worker.alive(13 * S, golden=False)
    assert worker.overdue(20 * S, 11 * S) is None
    assert worker.overdue(21 * S + 1, 11 * S) == "silent for 10 s over one frame"


def test_a_sign_of_life_nobody_asked_for(worker):
    """A worker that answers what it was not asked is out of step."""
    start(worker, 0)
    with pytest.raises(ValueError, match="nobody asked"):
        worker.alive(S, golden=True)
    assert worker.self_tests == 0


def test_a_sign_of_life_from_a_dead_worker(worker):
    """Asking a worker that just died raises nothing: whoever reads its line finds out."""
    start(worker, 0)
    worker.end.close()
    worker.beat(2 * S, idle=True)
    assert worker.overdue(13 * S, None) == "silent for 10 s while idle"


def test_a_death_while_stopping(worker):
    """A worker that dies while it is asked to end is not restarted."""
    start(worker, 0)
    worker.dismiss()
    worker.gone(S, "died")
    assert worker.state is State.STOPPING
    assert worker.next_due_ns(None) is None
