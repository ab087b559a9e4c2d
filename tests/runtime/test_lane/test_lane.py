"""A lane and its worker: whatever the worker sends or does not, every frame leaves once, and never as OK by mistake."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from runtime.frame import FrameHeader, PixelFormat
from runtime.inspection import ErrorWord, Verdict
from runtime.lifecycle import State
from runtime.testing.faulty import MAP_SIDE
from tests.runtime.test_lane.bench import DEADLINE_MS, FIRST, MAP_BYTES, MS, PIXELS, done

JUNK = [..., None, True, -1, 1.5, math.nan, math.inf, "x", b"", [], {}, 2**63, "none", [1, 2, 3]]
KEYS = list(done(0))
MAP_KEYS = [f"map__{key}" for key in done(0)["map"]]
#: Odd, and yet an answer: a score above the threshold, a long time, numbers a raw map does not use (or has by default).
LEGITIMATE = {
    *((key, 1.5) for key in ("score", "map__scale", "map__offset")),
    *((key, ...) for key in ("map__scale", "map__offset")),
    ("detect_us", 2**63),
}


def is_legitimate(key: str, junk: Any) -> bool:
    """Tell whether a record with this value is still one to believe."""
    return any(key == name and type(junk) is type(value) and junk == value for name, value in LEGITIMATE)


def test_a_decided_frame(bench):
    """A good record becomes OK with score, map and times; the frame's pixels were where the worker was told."""
    assert bench.take() is None
    assert bench.advance() == []
    asked = bench.worker.played()
    assert asked == {
        "op": "inspect",
        "ticket": FIRST,
        "slot": 0,
        "shape": [2, 3, 1],
        "format": "mono8",
        "frame": [1, FIRST],
        "live": True,
    }
    slots = bench.lane._slots
    assert bytes(slots.frame(0, 6)) == bytes(PIXELS)
    anomaly_map = np.arange(MAP_SIDE * MAP_SIDE, dtype="<f2").tobytes()
    slots.answer(0, MAP_BYTES)[:] = anomaly_map
    bench.now_ns += 3 * MS
    (answer,) = bench.say(done(FIRST))
    assert (answer.verdict, answer.score, answer.map_payload) == (Verdict.OK, 0.25, anomaly_map)
    assert bench.published(answer).map == answer.map
    assert bench.status()["ok"] == 1


@pytest.mark.parametrize("junk", JUNK, ids=repr)
@pytest.mark.parametrize("key", [*KEYS, *MAP_KEYS])
def test_a_malformed_record_is_never_ok(bench, key, junk):
    """A record with one key missing or wrong: its frame leaves once, NotDecidable, in a form subscribers can read."""
    bench.take()
    bench.advance()
    (answer,) = bench.say(done(FIRST, **{key: junk}))
    assert bench.published(answer).frame_id == FIRST
    if is_legitimate(key, junk):
        assert answer.verdict is (Verdict.NOT_OK if key == "score" else Verdict.OK)
    else:
        # A wrong ticket or no operation: out of step, so the worker is given up. Otherwise only this answer is.
        lost = key == "ticket" or (key == "op" and junk in (..., "x"))
        words = {ErrorWord.DETECTOR_CRASH, ErrorWord.RESULT_BAD} if lost else {ErrorWord.RESULT_BAD}
        assert (answer.verdict, answer.error in words) == (Verdict.NOT_DECIDABLE, True)
    assert bench.advance(2 * DEADLINE_MS) == []
    status = bench.status()
    assert (status["frames"], status["inspections"]) == (1, 1)


PACKETS = {
    "nothing": msgpack.packb(None),
    "a list": msgpack.packb([1, 2]),
    "noise": b"\xc1\xff\x00",
    "half a record": msgpack.packb(done(FIRST))[:-9],
    "two records": msgpack.packb(done(FIRST)) * 2,
    "no UTF-8": b"\x81\xa2op\xa1\xff",
    "a key that cannot be one": b"\x81\x90\x01",
    "without end": msgpack.packb({"op": "done", "ticket": FIRST, "x": "y" * 70_000}),
    "an answer to nobody": msgpack.packb(done(99)),
    "an answer to the next": msgpack.packb(done(FIRST + 1)),
}


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS.keys())
def test_a_worker_out_of_step_is_replaced(bench, packet):
    """A packet that answers no oldest frame costs that frame and the worker; the next one waits and is decided."""
    bench.take()
    bench.take()
    bench.advance()
    (answer,) = bench.say(packet)
    assert (answer.number, answer.verdict, answer.error) == (FIRST, Verdict.NOT_DECIDABLE, ErrorWord.DETECTOR_CRASH)
    assert bench.worker.process.killed
    assert bench.worker.state is State.DEGRADED
    bench.now_ns = bench.worker.next_due_ns(None)
    bench.now_ns -= 50 * MS  # the second frame's deadline is that of its arrival
    bench.worker.supervisor.start_at_ns = bench.now_ns
    bench.make_ready()
    bench.advance()
    assert bench.worker.played()["ticket"] == FIRST + 1
    (answer,) = bench.say(done(FIRST + 1))
    assert (answer.number, answer.verdict) == (FIRST + 1, Verdict.OK)


@pytest.mark.parametrize("op", ["done", "undecided"])
def test_an_answer_nobody_asked_for(bench, op):
    """A record without a frame in hand replaces the worker and makes no inspection."""
    assert bench.say({**done(FIRST), "op": op}) == []
    assert bench.worker.state is State.DEGRADED
    assert bench.status()["inspections"] == 0


def test_a_frame_is_dispatched_without_waiting_for_the_rest(bench):
    """The worker can begin as soon as a frame is in, and no frame goes to a worker that is not ready."""
    bench.take()
    bench.lane.dispatch(bench.now_ns)
    assert bench.worker.played()["ticket"] == FIRST
    bench.lane.worker.state = State.DEGRADED
    bench.take()
    bench.lane.dispatch(bench.now_ns)
    assert bench.lane.pipeline.waiting == 1


def test_an_answer_is_out_before_the_next_record_is_read(bench):
    """What the worker sent first can be published while the second record still lies in the link."""
    bench.take()
    bench.take()
    bench.advance()
    bench.worker.end._socket.send(msgpack.packb(done(FIRST)))
    answers = bench.lane.read_worker(bench.now_ns)
    assert next(answers).number == FIRST
    bench.worker.end._socket.send(msgpack.packb(done(FIRST + 1)))
    assert [answer.number for answer in answers] == [FIRST + 1]


def test_the_same_answer_twice(bench):
    """The second answer to one frame is out of step: one inspection, and another worker at the next look."""
    bench.take()
    bench.advance()
    answers = bench.say(done(FIRST), done(FIRST))
    assert [answer.verdict for answer in answers] == [Verdict.OK]
    assert bench.say_nothing() == []
    assert bench.worker.state is State.DEGRADED


def test_what_a_worker_says_of_its_engine_later(bench):
    """A note that comes while it inspects, as that batches are off, is what the status says from then on."""
    bench.take()
    bench.advance()
    later = {"backend": "eager", "precision": "fp32", "note": "frames go one by one"}
    bench.say(done(FIRST), {"op": "engine", "engine": later})
    bench.say_nothing()
    assert (bench.status()["engine"], bench.worker.state) == (later, State.READY)


@pytest.mark.parametrize("word", ["detector_error", "result_bad", "frame_exposure", "frame_repeated"])
def test_an_undecided_record(bench, word):
    """The worker's own error word and its detail are passed on."""
    bench.take()
    bench.advance()
    (answer,) = bench.say({"op": "undecided", "ticket": FIRST, "error": word, "detail": "why", "detect_us": 1})
    assert (answer.verdict, answer.error, answer.detail) == (Verdict.NOT_DECIDABLE, ErrorWord(word), "why")


@pytest.mark.parametrize("word", ["none", "overload", "stopping", "", "no_such_word", None, 3, ["detector_error"], ...])
def test_an_undecided_record_with_a_word_of_its_own(bench, word):
    """A word the worker has no business to say is not passed on: "none" would read as no error."""
    bench.take()
    bench.advance()
    record = {"op": "undecided", "ticket": FIRST, "detail": "why", **({} if word is ... else {"error": word})}
    (answer,) = bench.say(record)
    assert (answer.verdict, answer.error) == (Verdict.NOT_DECIDABLE, ErrorWord.RESULT_BAD)
    assert bench.published(answer).error is ErrorWord.RESULT_BAD


def test_what_was_said_in_time_but_read_late_is_late(bench):
    """A host that stood still past a deadline answers NotDecidable, whatever the worker said meanwhile."""
    assert bench.take() is None
    bench.advance()
    bench.now_ns += (DEADLINE_MS + 1) * MS
    (answer,) = bench.say({"op": "done", "ticket": bench.number, "score": 0.1, "detect_us": 1, "map_bytes": 0})
    assert (answer.verdict, answer.error) == (Verdict.NOT_DECIDABLE, ErrorWord.DETECTOR_TIMEOUT)
    assert bench.lane.pipeline.late_answers == 1
    assert bench.advance() == []


def test_a_template_without_a_threshold(make_bench):
    """Without an image threshold nothing can be decided, and the frame says so."""
    bench = make_bench(threshold=None)
    bench.make_ready()
    bench.take()
    bench.advance()
    (answer,) = bench.say(done(FIRST))
    assert (answer.verdict, answer.error) == (Verdict.NOT_DECIDABLE, ErrorWord.THRESHOLD_MISSING)


def test_a_map_nobody_asked_for(make_bench):
    """With ``map: none`` an answer needs no map, and one that brings a map is not believed."""
    bench = make_bench(publish={"map": "none"})
    bench.make_ready()
    bench.take()
    bench.take()
    bench.advance()
    answers = bench.say(done(FIRST, map_bytes=0, map=...), done(FIRST + 1))
    assert [answer.verdict for answer in answers] == [Verdict.OK, Verdict.NOT_DECIDABLE]


def test_what_a_worker_said_before_it_died_counts(bench):
    """An answer already sent is taken, even when the death is noticed first by sending to the dead worker."""
    bench.take()
    bench.advance()
    bench.worker.end._socket.send(msgpack.packb(done(FIRST)))
    bench.worker.end.close()
    bench.take()
    assert bench.advance() == []
    answers = bench.say()
    assert [(answer.number, answer.error) for answer in answers] == [
        (FIRST, ErrorWord.NONE),
        (FIRST + 1, ErrorWord.DETECTOR_CRASH),
    ]


def test_a_worker_that_cannot_load(make_bench):
    """Its reason is kept, its death counted, and frames say ``detector_crash`` from then on."""
    bench = make_bench()
    bench.advance()
    bench.say({"op": "failed", "error": "TemplateError: damaged"})
    assert bench.status()["last_error"] == "could not load: TemplateError: damaged (exit status -9)"
    bench.take()
    bench.worker.supervisor.refusal = OSError("no process today")
    (answer,) = bench.advance(DEADLINE_MS)
    assert answer.error is ErrorWord.DETECTOR_CRASH


def test_words_at_the_deadline(bench):
    """At the deadline a frame with the worker says timeout and one in the queue overload; late answers are dropped."""
    for _ in range(2):
        bench.take()
    bench.advance()
    bench.take()
    assert bench.advance(DEADLINE_MS - 1) == []
    assert [answer.error for answer in bench.advance(1)] == [
        ErrorWord.DETECTOR_TIMEOUT,
        ErrorWord.DETECTOR_TIMEOUT,
        ErrorWord.OVERLOAD,
    ]
    assert bench.say(done(FIRST), done(FIRST + 1)) == []
    assert bench.status()["late_answers"] == 2


def test_words_while_the_worker_loads(make_bench):
    """Before the worker is ready a full queue and a deadline both say ``detector_starting``."""
    bench = make_bench()
    bench.advance()
    assert [bench.take(), bench.take()] == [None, None]
    refused = bench.take()
    assert (refused.verdict, refused.error) == (Verdict.NOT_DECIDABLE, ErrorWord.DETECTOR_STARTING)
    assert [answer.error for answer in bench.advance(DEADLINE_MS)] == [ErrorWord.DETECTOR_STARTING] * 2


def test_a_full_queue(bench):
    """The frame that finds the queue full is refused at once; those before it stay."""
    for _ in range(2):
        bench.take()
    bench.advance()
    assert [bench.take(), bench.take()] == [None, None]
    refused = bench.take()
    assert (refused.number, refused.error) == (FIRST + 4, ErrorWord.OVERLOAD)
    assert bench.status()["waiting"] == 2


def test_stop_answers_everything(bench):
    """What has not left when the lane stops leaves as ``stopping``, with the worker or in the queue."""
    for _ in range(2):
        bench.take()
    bench.advance()
    bench.take()
    assert [answer.error for answer in bench.lane.stop(bench.now_ns)] == [ErrorWord.STOPPING] * 3
    status = bench.status()
    assert (status["frames"], status["inspections"], status["unanswered"]) == (3, 3, 0)


@pytest.mark.parametrize("fields", [{"source": "a.png"}, {"simulated": True}])
def test_a_replayed_frame_is_not_live(bench, fields):
    """The worker is told which frames a camera took now: only those may not repeat."""
    header = FrameHeader("top", 1, FIRST, 2, 3, PixelFormat.MONO8, 0, **fields)
    bench.lane.take(header, PIXELS, FIRST, bench.now_ns, 0)
    bench.advance()
    assert bench.worker.played()["live"] is False


def test_the_deadline_that_was_missed_is_named(bench):
    """A frame whose trigger asked for less than the camera allows says how long it had itself."""
    bench.take(deadline_ns=bench.now_ns + 30 * MS)
    (answer,) = bench.advance(30)
    assert "30 ms" in answer.detail


def test_a_deadline_that_changes_while_frames_wait(bench):
    """A shorter deadline counts from the next frame on, which may leave before those that came earlier."""
    bench.worker.state = State.DEGRADED
    bench.take()
    assignment = bench.lane.assignment
    camera = assignment.camera.model_copy(update={"deadline_ms": 10})
    bench.lane.configure(replace(assignment, camera=camera))
    bench.take()
    assert bench.lane.pipeline.next_deadline_ns() == bench.now_ns + 10 * MS
    assert [answer.number for answer in bench.lane._expired(bench.now_ns + 11 * MS)] == [FIRST + 1]
    assert [answer.number for answer in bench.lane._expired(bench.now_ns + 101 * MS)] == [FIRST]
