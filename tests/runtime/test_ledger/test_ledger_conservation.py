"""Whatever happens in whatever order, nothing that came in is unaccounted for."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import Event, FrameKey, Ledger, Reader, Retention, check, evidence, prune
from runtime.ledger.totals import conserved, spell, spell_totals

KINDS = (
    *("part", "trigger", "frame", "answer", "answer_bad", "undecided", "drop", "refused", "swap", "keep"),
    *("forget", "commit", "prune", "reopen"),
)


class World:
    """A ledger, and a count of what was done to it that shares nothing with the ledger's own counting."""

    def __init__(self, root, simulator):
        self.path, self.folder = root / "ledger.db", root / "evidence"
        self.simulator, self.clock = simulator, simulator.Clock()
        self.line = simulator.Line(self._open(), self.clock)
        self.done = Counter()
        self.waiting = []  # (trigger, key or None)

    def _open(self):
        return Ledger(self.path, self.simulator.STATION, clock=self.clock, checkpoint_s=100)

    def act(self, kind):
        """Do one thing, if it can be done now."""
        self.clock.pass_s(1)
        ledger = self.line.ledger
        if kind == "part":
            self.waiting.append(self.line.arrive())
            self.done.update(["triggers", "frames"])
        elif kind == "trigger":
            trigger = ledger.trigger("top", received_ns=self.clock(), deadline_ns=self.clock())
            self.waiting.append((trigger, None))
            self.done.update(["triggers"])
        elif kind == "frame" and (bare := [each for each in self.waiting if each[1] is None]):
            key = self.line.key()
            ledger.frame(key, received_ns=self.clock(), trigger=bare[-1][0])
            self.waiting[self.waiting.index(bare[-1])] = (bare[-1][0], key)
            self.done.update(["frames"])
        elif kind in ("answer", "answer_bad", "undecided") and self.waiting:
            self._answer(kind, *self.waiting.pop(len(self.waiting) // 2))
        elif kind == "drop":
            ledger.drop(FrameKey("top", 1, 1), received_ns=self.clock(), reason="duplicate")
            self.done.update(["frames", "frames.dropped.duplicate"])
        elif kind == "refused":
            ledger.note(Event.REFUSED, {"topic": 2})
            self.done.update({"refused.topic": 2})
        elif kind == "swap":
            ledger.note(Event.SWAP, {"to": "b" * 64})
            self.done.update(["events.swap"])
        else:
            self._keep_house(kind)

    def _answer(self, kind, trigger, key):
        if key is None or kind == "undecided":
            self.line.answer(trigger, key or FrameKey("top", 0, 0), error=ErrorWord.OVERLOAD)
            self.done.update(["inspections", "inspections.NotDecidable"])
            self.done.update(["frames.dropped.overload"] if key else [])
        else:
            verdict = Verdict.OK if kind == "answer" else Verdict.NOT_OK
            self.line.answer(trigger, key, verdict=verdict)
            self.done.update(["inspections", f"inspections.{verdict.label}", "frames.inspected"])

    def _keep_house(self, kind):
        ledger = self.line.ledger
        if kind == "keep" and ledger.written_seq > self.done["evidence"]:
            self.done.update(["evidence"])
            ledger.keep(evidence.write(self.folder, self.done["evidence"], Verdict.OK, {"frame": b"pixels"}))
        elif kind == "commit":
            ledger.commit()
        elif kind == "prune":
            prune(ledger, self.folder, Retention(most_ns=10 * 10**9), self.clock(), limit=12)
        elif kind == "reopen":
            ledger.close()
            self.line.ledger = self._open()


@given(kinds=st.lists(st.sampled_from(KINDS), max_size=60))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_history_is_conserved(simulator, kinds):
    """After any history, restarts and pruning included, the totals are what was done and the check finds nothing."""
    with tempfile.TemporaryDirectory() as root:
        world = World(Path(root), simulator)
        for kind in kinds:
            world.act(kind)
        ledger = world.line.ledger
        assert [each.trigger for each in ledger.open_triggers()] == sorted(trigger for trigger, _ in world.waiting)
        ledger.close()
        assert check(world.path, folder=world.folder, now_ns=0) == []
        with Reader(world.path) as reader:
            *_, totals = reader.head()
        for name, number in world.done.items():
            assert totals[name] == number, name
        open_frames = sum(key is not None for _, key in world.waiting)
        assert conserved(totals, len(world.waiting), open_frames) == []


@pytest.mark.parametrize("table", ["triggers", "frames", "inspections"])
def test_a_bug_that_loses_a_record_is_found(line, path, clock, table):
    """A planted bug in the writer that chains everything but one record's row makes the check fail and name it."""
    line.parts(4)
    trigger, key = line.arrive()
    line.answer(trigger, key)
    lost = line.ledger.journal.rows[table].pop()
    line.ledger.commit()
    line.parts(2)
    problems = check(path, now_ns=clock() + 10**12)
    assert ("missing", lost[0]) in {(problem.kind, problem.record) for problem in problems}


def test_a_bug_that_forgets_an_answer_is_found(line, path, clock):
    """A planted bug that takes a trigger for answered without inspection makes the check fail and name it."""
    line.parts(2)
    trigger, _ = line.arrive()
    line.ledger._open.pop(trigger)
    line.parts(2)
    [problem] = check(path, now_ns=clock() + 10**12)
    assert (problem.kind, problem.record) == ("trigger", trigger)
    assert str(trigger) in str(problem)


def test_a_trigger_in_time_is_no_problem(line, path, clock):
    """A running station's open triggers are missing their inspections only once their deadline has passed."""
    line.arrive()
    line.ledger.commit()
    assert check(path, now_ns=clock()) == []
    assert [each.kind for each in check(path, now_ns=clock() + 10**12)] == ["trigger"]


@given(st.dictionaries(st.text(), st.integers()))
def test_totals_are_spelled_as_everything_else(totals):
    """The quick spelling of totals is the one ``spell`` gives, whatever the names: a reader compares bytes."""
    assert spell_totals(totals) == spell(totals)


def test_totals_in_which_something_is_missing_are_seen():
    """Each equation fails by itself when one of its sides is off by one."""
    whole = Counter(
        {
            "triggers": 5,
            "inspections": 4,
            "inspections.OK": 3,
            "inspections.NotDecidable": 1,
            "frames": 6,
            "frames.inspected": 3,
            "frames.dropped.overload": 1,
            "frames.dropped.duplicate": 1,
        }
    )
    assert conserved(whole, 1, 1) == []
    for name in whole:
        assert conserved(whole + Counter([name]), 1, 1), name
    assert len(conserved(whole, 2, 1)) == 1
    assert len(conserved(whole, 1, 2)) == 1
