"""A run through chaos proves what it claims, and fails where a bug is planted that it must find."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import closing

import numpy as np
import pytest

from runtime.inspection import Verdict
from runtime.ledger import Reader
from runtime.ledger.schema import COLUMNS
from runtime.sim.chaos import run_chaos
from runtime.sim.plan import Blow, Coming, Kind, draw_plan
from runtime.sim.verdicts import CAMERA_FILE, DURABLE_FILE, LIVE_FILE, Books, judge
from runtime.testing.faulty import Fault, right_answer
from runtime.testing.station import host_command
from runtime.worker.exposure import find_fault, sample_frame

pytestmark = pytest.mark.system
SEED, TRIGGERS, KILLS = 5, 500, 2


def broken(claims):
    """Return the claims that do not hold, with what speaks against them."""
    return {each.claim: each.named for each in claims if not each.holds}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return what a small run left behind, and its figures."""
    return run_chaos(SEED, TRIGGERS, KILLS, tmp_path_factory.mktemp("chaos"))


@pytest.fixture
def evidence(finished, tmp_path):
    """Return what the run left behind, in a folder of the test's own."""
    shutil.copytree(finished[0].folder, tmp_path / "run")
    return dataclasses.replace(finished[0], folder=tmp_path / "run")


# --- the script ---------------------------------------------------------------------------------------------------


def test_a_seed_is_a_script():
    """One seed gives the same parts, order, blows and pictures again; another one gives others."""
    plan, again, other = draw_plan(1, 400, 3), draw_plan(1, 400, 3), draw_plan(2, 400, 3)
    assert plan == again
    assert plan != other
    assert sorted(plan.order) == list(range(400))
    assert all(np.array_equal(plan.image(number), again.image(number)) for number in range(50))


def test_a_long_script_leaves_no_fault_out():
    """20,000 parts hold every kind and every fault of the list, and as many deaths of the host as asked for."""
    plan = draw_plan(7, 20_000, 5)
    faults = {part.fault for part in plan.parts if part.kind is Kind.FAULT}
    unseen = {Fault.DRIFT, Fault.OLD_MAP}  # see the module's docstring
    assert faults == set(Fault) - unseen
    assert {part.kind for part in plan.parts} == set(Kind)
    assert [each.blow for each in plan.blows].count(Blow.KILL_HOST) == 5
    assert {each.blow for each in plan.blows} == set(Blow)
    assert {part.coming for part in plan.parts} == {None, *Coming}
    assert not any(part.coming for part in plan.parts if part.kind is Kind.FROZEN or part.fault is Fault.KILL)


def test_the_truth_of_a_part_is_in_its_picture():
    """A good part scores below the threshold, a bad one above, and what the exposure check must refuse it refuses."""
    plan = draw_plan(3, 2000, 1)
    limits = {"saturated": 0.98, "black": 0.98, "contrast": 8}
    for part in plan.parts:
        image = plan.image(part.number)
        if part.kind in {Kind.GOOD, Kind.BAD}:
            assert (right_answer(image)[1] > 0.5) == (part.kind is Kind.BAD)
        seen = find_fault(sample_frame(image), **limits)
        assert (seen is not None) == (part.kind in {Kind.BLACK, Kind.SATURATED, Kind.FLAT}), part


# --- the run ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_run_through_chaos_loses_nothing(finished):
    """Every claim holds after faults of the detector, the camera, the subscribers, and SIGKILLs of the host."""
    evidence, figures = finished
    claims, more = judge(evidence)
    assert broken(claims) == {}
    assert figures["blows"][Blow.KILL_HOST.value] == KILLS
    assert len(evidence.down) == KILLS
    assert more["duplicates_refused"] > 0
    assert any(name.startswith("refused.") for name in more["camera"])
    assert more["outcomes"]["good"]["OK"] > 0
    assert all(more["camera"][f"ahead.{coming}"] > 0 for coming in Coming)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_cameras_that_share_a_worker_lose_nothing_either(tmp_path):
    """Every claim holds where one process answers both cameras, and dies, hangs and is killed with frames of both."""
    evidence, figures = run_chaos(SEED, 300, 1, tmp_path, shared=True)
    claims, more = judge(evidence)
    assert broken(claims) == {}
    assert figures["blows"][Blow.KILL_HOST.value] == len(evidence.down) == 1
    assert more["outcomes"]["good"]["OK"] > 0
    with Reader(tmp_path / "ledger" / "ledger.sqlite") as reader:
        restarts = Counter(each.detail["camera"] for each in reader.events(kind="restart"))
    assert min(restarts["top"], restarts["side"]) > 0, "a death is one of both"


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.timeout(1500)
def test_twenty_thousand_triggers(tmp_path):
    """The same holds for 20,000 triggers and five SIGKILLs of the host."""
    evidence, _ = run_chaos(7, 20_000, 5, tmp_path)
    assert broken(judge(evidence)[0]) == {}
    assert len(evidence.down) == 5


# --- what it must find: on a copy of what a run left behind ----------------------------------------------------------


def change(evidence, *statements):
    """Change the ledger from outside."""
    with closing(sqlite3.connect(evidence.folder / "ledger" / "ledger.sqlite", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("table", sorted(set(COLUMNS) - {"evidence"}))
def test_one_lost_record_is_found(evidence, table):
    """One record deleted, of any kind, fails the run."""
    change(evidence, f"DELETE FROM {table} WHERE record = (SELECT record FROM {table} LIMIT 1 OFFSET 1)")  # noqa: S608 -- a constant's names
    found = broken(judge(evidence)[0])
    assert "problems found by `edgead ledger check`" in found
    assert ("triggers sent = inspections in the ledger" in found) == (table == "inspections")


@pytest.mark.parametrize(
    ("file", "claim"),
    [
        (CAMERA_FILE, "triggers sent = parts with a receipt"),
        (DURABLE_FILE, "triggers sent = results of the durable subscriber"),
    ],
)
def test_one_lost_line_is_found(evidence, file, claim):
    """One receipt, or one delivered result, that never came fails the run and is named."""
    path = evidence.folder / file
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line.split()[:1] != lines[50].split()[:1]))
    found = broken(judge(evidence)[0])
    assert set(found) == {claim}
    assert lines[50].split()[0] in found[claim]


@pytest.mark.parametrize(("file", "claim"), [(DURABLE_FILE, "delivered"), (LIVE_FILE, "live")])
def test_one_false_result_is_found(evidence, file, claim):
    """A result that arrived with another verdict than the ledger's fails the run."""
    path = evidence.folder / file
    lines = path.read_text().splitlines(keepends=True)
    words = lines[20].split()
    words[3] = str(int(Verdict.OK if words[3] != str(int(Verdict.OK)) else Verdict.NOT_OK))
    path.write_text("".join([*lines[:20], " ".join(words) + "\n", *lines[21:]]))
    assert set(broken(judge(evidence)[0])) == {f"{claim} results that contradict the ledger"}


def test_a_verdict_without_a_picture_is_found(evidence):
    """A part that got no frame and is decided all the same fails the run and is named."""
    seen = {each.number for each in evidence.plan.parts if each.coming is Coming.AFTER and each.kind is Kind.GOOD}
    passed = next(
        part for part in Books(evidence).inspections if part.verdict is Verdict.OK and part.trigger_id in seen
    )
    parts = list(evidence.plan.parts)
    parts[passed.trigger_id] = dataclasses.replace(parts[passed.trigger_id], coming=Coming.NEVER)
    blind = dataclasses.replace(evidence, plan=dataclasses.replace(evidence.plan, parts=tuple(parts)))
    assert broken(judge(blind)[0]) == {"triggers without frame that are decided": str(passed.trigger_id)}


def test_a_station_that_decides_too_little_is_found(evidence, monkeypatch):
    """Were more decisions asked for than there are parts, the run would fail for either kind of trigger."""
    monkeypatch.setattr("runtime.sim.verdicts.LEAST_OF_ALL", 1.1)
    found = broken(judge(evidence)[0])
    assert set(found) == {"too few sound parts decided", "too few parts with a trigger ahead decided"}


def test_a_receipt_that_was_late_is_found(evidence):
    """A receipt past the deadline, with no dead host to explain it, fails the run."""
    path = evidence.folder / CAMERA_FILE
    lines = path.read_text().splitlines(keepends=True)
    words = lines[2].split()
    words[1] = str(int(words[1]) - 5 * 10**9)
    path.write_text("".join([*lines[:2], " ".join(words) + "\n", *lines[3:]]))
    assert set(broken(judge(evidence)[0])) == {"receipts past the deadline while the host lived"}


def test_without_the_dead_hosts_late_answers_have_no_excuse(evidence):
    """What a killed host explains is not explained where none was killed: the excuse is used, and needed."""
    found = broken(judge(dataclasses.replace(evidence, down=()))[0])
    assert "inspections past their deadline while the host lived" in found


# --- what it must find: a bug in the running host ---------------------------------------------------------------------

LOSES_ONE = """
from runtime.ledger.writer import Ledger
write = Ledger.commit
def commit(self):
    write(self)
    self.journal.connection.execute("DELETE FROM inspections WHERE seq = 57")
Ledger.commit = commit
"""
CRASH_IS_OK = """
import dataclasses
from runtime.inspection import ErrorWord, Verdict
from runtime.ledger.writer import Ledger
take = Ledger.inspect
def inspect(self, trigger, inspection):
    if inspection.error in (ErrorWord.DETECTOR_CRASH, ErrorWord.DETECTOR_ERROR):
        passed = {"verdict": Verdict.OK, "error": ErrorWord.NONE, "score": 0.1, "threshold": 0.5}
        inspection = dataclasses.replace(inspection, **passed)
    return take(self, trigger, inspection)
Ledger.inspect = inspect
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("bug", "claim"),
    [
        (LOSES_ONE, "triggers sent = inspections in the ledger"),
        (CRASH_IS_OK, "faulted or bad parts that are OK"),
    ],
    ids=["loses one record", "answers OK to a crash"],
)
def test_a_planted_bug_fails_the_run(bug, claim, tmp_path):
    """A host that loses one record, or calls a part good whose detector failed, is found."""

    def buggy_host(path, plugins):
        command = host_command(path, plugins)
        at = command.index("-c") + 1
        return [*command[:at], bug + command[at], *command[at + 1 :]]

    evidence, _ = run_chaos(SEED, 400, 1, tmp_path, start_host=buggy_host)
    found = broken(judge(evidence)[0])
    sys.stdout.write(json.dumps(found))
    assert claim in found
