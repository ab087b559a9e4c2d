"""A lane whose worker fails, hangs or is asked whether it lives: no frame waits for it in vain."""

from __future__ import annotations

import math
from typing import Any

import pytest

from runtime.inspection import ErrorWord, Verdict
from runtime.lifecycle import State
from tests.runtime.test_lane.bench import FIRST, MS, Bench, done


def fail(bench: Bench) -> list[Any]:
    """Have the worker die until its restart budget is spent; return the answers of the last death."""
    answers: list[Any] = []
    while bench.worker.state is not State.FAILED:
        bench.worker.supervisor.start_at_ns = bench.now_ns
        bench.advance()
        bench.worker.end.close()
        answers = list(bench.lane.read_worker(bench.now_ns))
    return answers


def test_a_failed_worker_keeps_no_frame_waiting(make_bench):
    """Once the restart budget is spent the frames that wait, and every new one, are NotDecidable at once."""
    bench = make_bench(worker={"threads": 1, "restart_budget": 3})
    assert [bench.take(), bench.take()] == [None, None]
    answers = fail(bench)
    assert [(answer.number, answer.error) for answer in answers] == [
        (FIRST, ErrorWord.DETECTOR_CRASH),
        (FIRST + 1, ErrorWord.DETECTOR_CRASH),
    ]
    assert bench.worker.restarts == 4
    refused = bench.take()
    assert (refused.verdict, refused.error) == (Verdict.NOT_DECIDABLE, ErrorWord.DETECTOR_CRASH)
    assert "died" in refused.detail
    status = bench.status()
    assert (status["worker"], status["frames"], status["inspections"]) == ("failed", 3, 3)


def test_a_failed_worker_that_comes_back_inspects(make_bench):
    """A restart is tried every 30 s, and the first frame after it is decided: nobody is needed."""
    bench = make_bench(worker={"threads": 1, "restart_budget": 0})
    fail(bench)
    bench.advance(29_999)
    assert bench.worker.pid is None
    bench.now_ns += MS
    bench.make_ready()
    assert bench.take() is None
    bench.advance()
    (answer,) = bench.say(done(FIRST))
    assert (answer.verdict, bench.status()["worker"]) == (Verdict.OK, "ready")


def test_an_idle_worker_is_asked_for_a_sign_of_life(bench):
    """A second after the last frame the worker is asked; while it holds a frame it is not; the lane wakes for it."""
    bench.take()
    bench.advance()
    assert bench.worker.played()["op"] == "inspect"
    bench.advance(50)
    bench.say(done(FIRST))
    bench.advance()
    assert bench.lane.next_due_ns() == bench.now_ns + 1000 * MS
    bench.advance(1000)
    assert bench.worker.played() == {"op": "ping", "golden": False}
    assert bench.say({"op": "alive", "golden": False}) == []
    assert bench.worker.state is State.READY


def test_an_idle_worker_that_hangs(bench):
    """A worker silent while idle is replaced after its time, and the part that comes then finds a new one loading."""
    bench.advance(1000)
    assert bench.worker.played()["op"] == "ping"
    bench.advance(10_000)
    assert bench.worker.state is State.READY
    bench.advance(1)
    assert bench.worker.process.killed
    assert bench.status()["last_error"] == "silent for 10 s while idle (exit status -9)"


def test_a_worker_that_fails_its_self_test(bench):
    """A worker that no longer answers a golden frame as it did is replaced, and its reason kept."""
    bench.advance(60_000)
    assert bench.worker.played() == {"op": "ping", "golden": True}
    assert bench.say({"op": "unfit", "error": "TemplateError: score"}) == []
    assert bench.worker.state is State.DEGRADED
    assert bench.status()["last_error"] == "failed its self-test: TemplateError: score (exit status -9)"


def test_self_tests_are_counted(bench):
    """A self-test that was passed is in the status; a sign of life nobody asked for costs the worker its place."""
    bench.advance(60_000)
    bench.say({"op": "alive", "golden": True})
    assert bench.status()["self_tests"] == 1
    bench.say({"op": "alive", "golden": True})
    assert bench.worker.state is State.DEGRADED
    assert bench.status()["self_tests"] == 1


def test_a_machine_that_starts_no_process_keeps_no_frame_waiting(make_bench):
    """A worker that fails because no process can be started answers the frames that wait at once, as any failed one."""
    bench = make_bench(worker={"threads": 1, "restart_budget": 0})
    assert [bench.take(), bench.take()] == [None, None]
    bench.worker.supervisor.refusal = OSError("no more processes")
    answers = bench.advance()
    assert bench.worker.state is State.FAILED
    assert [(answer.number, answer.error) for answer in answers] == [
        (FIRST, ErrorWord.DETECTOR_CRASH),
        (FIRST + 1, ErrorWord.DETECTOR_CRASH),
    ]
    assert "no more processes" in answers[0].detail


def test_a_death_over_a_sign_of_life_costs_no_frame(bench):
    """A frame sent behind a sign of life that the worker died over was not begun: the next worker decides it."""
    bench.advance(1000)
    assert bench.worker.played()["op"] == "ping"
    bench.take()
    bench.advance()
    assert bench.worker.played()["ticket"] == FIRST
    bench.worker.end.close()
    assert bench.say_nothing() == []
    bench.worker.supervisor.start_at_ns = bench.now_ns
    bench.make_ready()
    bench.advance()
    assert bench.worker.played()["ticket"] == FIRST
    (answer,) = bench.say(done(FIRST))
    assert answer.verdict is Verdict.OK


@pytest.mark.parametrize("junk", [{"free": 1}, {"free": 1, "total": 2, "used": math.inf}, {"free": -1}, 7, []])
def test_a_worker_that_tells_no_figures_is_given_up(make_bench, junk):
    """Device memory that is no number of bytes is a record out of step: the worker is buried, the host goes on."""
    bench = make_bench()
    bench.advance()
    bench.worker.played()
    assert bench.say({"op": "ready", "device_memory": junk}) == []
    assert (bench.worker.state, bench.lane.device_memory) == (State.DEGRADED, None)
