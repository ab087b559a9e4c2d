"""Random lines: triggers, frames, repetitions, losses, waits and kills in any order; the promises always hold."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.frame import Clock as FrameClock
from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import check
from runtime.station.config import Camera
from runtime.testing.played_line import EPOCH, MS, Clock, Line

DEADLINE_MS, EARLY_MS = 100, 20
IDS, PARTS = st.integers(0, 2), st.sampled_from(["", "a", "b"])
STEPS = st.one_of(
    st.tuples(st.just("raise"), IDS, PARTS),
    st.tuples(st.just("frame"), st.none() | IDS, PARTS),
    st.tuples(st.just("again"), st.integers(0, 20), st.none()),
    st.tuples(st.just("wait"), st.integers(1, 120), st.none()),
    st.tuples(st.just("finish"), st.none(), st.none()),
    st.tuples(st.just("kill"), st.none(), st.none()),
)


@contextmanager
def a_line(*, ledger: bool, **keys) -> Iterator[Line]:
    """Lend a line; one with a ledger is proven by that at the end."""
    clock = Clock()
    camera = Camera(product="part", triggers="ahead", deadline_ms=DEADLINE_MS, queue=2, **keys)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("runtime.host.intake.time", clock),
        mock.patch("runtime.host.publication.time", clock),
    ):
        line = Line(Path(folder) if ledger else None, clock, camera)
        try:
            yield line
        finally:
            line.close()
        if line.folder is not None:
            assert check(line.folder / "ledger.sqlite", now_ns=EPOCH + 10**15) == []


def play(line: Line, steps: list[tuple]) -> tuple[list[tuple[str, bytes]], int]:
    """Do the steps, each message on a connection of its own; return kinds, headers, and where the last run begins."""
    sent: list[list[bytes]] = []
    kinds: list[tuple[str, bytes]] = []
    frames = began = 0
    for what, number, part in steps:
        line.clock.now_ns += MS
        name = b"%d" % len(sent)
        if what == "raise":
            sent.append(line.trigger(name, number, part_id=part, raised_ns=line.clock.time_ns()))
            kinds.append(("trigger", sent[-1][1]))
        elif what == "frame":
            sent.append(line.frame(name, frames, number, part_id=part))
            kinds.append(("frame", sent[-1][1]))
            frames += 1
        elif what == "again" and sent:
            line.send(name, sent[number % len(sent)])
            kinds.append(kinds[number % len(sent)])
            sent.append(sent[number % len(sent)])
        elif what == "wait":
            line.wait(number)
        elif what == "finish":
            line.finish()
        elif what == "kill":
            line.kill()
            line.start()
            began = len(sent)
    line.wait(10 * DEADLINE_MS)
    return kinds, began


@given(st.lists(STEPS, max_size=40), st.sampled_from(["id", "order"]), st.sampled_from([0, 20]))
@settings(deadline=None, max_examples=40)
def test_each_trigger_one_answer(steps, match, early_ms):
    """One receipt a message, one inspection a trigger however often it comes, no good verdict shared, nothing lost."""
    with a_line(ledger=True, match=match, early_ms=early_ms) as line:
        kinds, began = play(line, steps)
        told = {int(name): receipts for name, receipts in line.receipts.items()}
        for number in range(len(kinds)):
            count = len(told.get(number, []))
            assert count == 1 if number >= began else count <= 1
        answers: defaultdict[tuple[str, bytes], set[int]] = defaultdict(set)
        for number, receipts in told.items():
            answers[kinds[number]] |= {receipt.seq for receipt in receipts if receipt.accepted}
        assert all(len(seqs) <= 1 for seqs in answers.values()), "a message sent again got a second inspection"
        good = {made.seq for made in line.published if made.verdict is Verdict.OK}
        shared = Counter((kind, seq) for (kind, _), seqs in answers.items() for seq in seqs & good)
        assert max(shared.values(), default=1) == 1, "two parts got one good verdict"
        seqs = [made.seq for made in line.published]
        assert seqs == list(range(1, len(seqs) + 1))
        totals = line.records.ledger.totals
        assert totals["triggers"] == totals["inspections"] == len(seqs)
        dropped = sum(number for name, number in totals.items() if name.startswith("frames.dropped."))
        assert totals["frames"] == totals["frames.inspected"] + dropped


PARTS_OF_A_LINE = st.tuples(
    st.integers(DEADLINE_MS, 3 * DEADLINE_MS),  # ms since the part before
    st.sampled_from(["comes", "comes", "comes", "missed", "lost"]),
    st.integers(1, 2 * DEADLINE_MS - 1),  # ms from the trigger until its frame arrives
)


@given(st.lists(PARTS_OF_A_LINE, min_size=2, max_size=12), st.sampled_from([FrameClock.HOST, FrameClock.CAMERA]))
@settings(deadline=None, max_examples=200)
def test_matched_by_order_no_part_gets_the_frame_of_another(parts, clock):
    """Parts one at a time, pictures late, missed or lost on their way: a good verdict is always that part's own."""
    events: list[tuple[int, int, str, int]] = []  # when, which part, what, number of the frame
    at = frame_id = arrived = 0
    for part, (gap, fate, delay) in enumerate(parts):
        at += gap
        events.append((at, part, "trigger", 0))
        if fate == "comes":
            arrived = max(arrived + 1, at + delay)  # one connection: in order
            events.append((arrived, part, "frame", frame_id))
        frame_id += fate != "missed"
    with a_line(ledger=False, match="order", early_ms=EARLY_MS) as line:
        for when, part, what, number in sorted(events):
            line.clock.now_ns = when * MS
            line.turn()
            if what == "trigger":
                line.trigger(trigger_id=part + 1)
            else:
                taken = EPOCH + (sum(gap for gap, _, _ in parts[: part + 1]) + 1) * MS
                line.frame(frame_id=number, clock=clock, acquired_ns=taken, source=str(part))
                line.finish()
        line.wait(10 * DEADLINE_MS)
        for made in line.published:
            assert made.verdict is not Verdict.OK or made.source == str(made.trigger_id - 1)
        assert len(line.published) == len(parts)
        in_time = all(fate == "comes" and delay < DEADLINE_MS for _, fate, delay in parts)
        assert not in_time or all(made.verdict is Verdict.OK for made in line.published)
        assert {made.error for made in line.published} <= {ErrorWord.NONE, ErrorWord.CAMERA_LOST}


NUMBERED_PARTS = st.tuples(
    st.integers(5, 2 * DEADLINE_MS),  # ms since the part before
    st.sampled_from(["comes", "comes", "comes", "lost"]),
    st.integers(1 - EARLY_MS, 2 * DEADLINE_MS - 1),  # ms from the trigger until its frame arrives
)


@given(
    st.lists(NUMBERED_PARTS, min_size=2, max_size=12),
    st.integers(1, 4),
    st.sampled_from([FrameClock.HOST, FrameClock.CAMERA]),
)
@settings(deadline=None, max_examples=200)
def test_matched_by_numbers_used_again_no_part_gets_the_frame_of_another(parts, numbers, clock):
    """Numbers soon used again, not while open; frames early, late or lost: a good verdict is always that part's own."""
    events: list[tuple[int, int, str]] = []  # when, which part, what
    at = DEADLINE_MS
    for part, (gap, fate, delay) in enumerate(parts):
        at += max(gap, -(-(DEADLINE_MS + EARLY_MS) // numbers))
        events.append((at, part, "trigger"))
        if fate == "comes":
            events.append((at + delay, part, "frame"))
    raised = {part: when for when, part, what in events if what == "trigger"}
    with a_line(ledger=False, match="id", early_ms=EARLY_MS) as line:
        for when, part, what in sorted(events):
            line.clock.now_ns = when * MS
            line.turn()
            if what == "trigger":
                line.trigger(trigger_id=part % numbers, part_id=f"p{part}")
            else:
                taken = EPOCH + (raised[part] + min(0, parts[part][2])) * MS
                fields = {"clock": clock, "acquired_ns": taken, "source": str(part)}
                line.frame(frame_id=part, trigger_id=part % numbers, **fields)
                line.finish()
        line.wait(10 * DEADLINE_MS)
        assert len(line.published) == len(parts)
        for made in line.published:
            assert made.verdict is not Verdict.OK or f"p{made.source}" == made.part_id
