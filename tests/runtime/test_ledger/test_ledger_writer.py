"""What the ledger takes, what it refuses, and what it still knows after it was closed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from random import Random

import pytest

from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import Event, FrameKey, Ledger, LedgerError, Reader, check, lookup
from runtime.ledger.records import Kept
from runtime.ledger.schema import signed, unsigned
from runtime.wire.messages import encode_result


def test_the_sequence_goes_on_over_runs(opened):
    """The first inspection is 1, and a restart neither skips nor repeats a number."""
    assert opened().parts(3) == [1, 2, 3]
    assert opened().parts(2) == [4, 5]
    assert opened().ledger.next_seq == 6


def test_the_result_is_kept_as_sent(line, path, simulator, clock):
    """The ledger holds the header part byte for byte, and columns that say the same."""
    trigger, key = line.arrive(trigger_id=2**64 - 1, part_id="part 7")
    made = simulator.inspection(1, key, clock(), verdict=Verdict.NOT_OK, part_id="part 7")
    assert line.ledger.inspect(trigger, made) == encode_result(made)
    line.ledger.commit()
    with Reader(path) as reader:
        stored = reader.inspection(1)
    assert stored.header == encode_result(made)[1]
    for name in ("seq", "result_id", "camera", "part_id", "verdict", "error", "score", "template", "published_ns"):
        assert getattr(stored, name) == getattr(made, name), name
    assert stored.frame == key


def test_results_are_found_by_id_and_by_verdict(line, path):
    """A reader finds one inspection by its result id, those of one verdict, and all of them, however many."""
    for verdict in (Verdict.OK, Verdict.NOT_OK):
        for _ in range(600):
            line.answer(*line.arrive(), verdict=verdict)
    line.ledger.commit()
    with Reader(path) as reader:
        assert reader.inspection_of("run-700").seq == 700
        assert reader.inspection_of("run-7000") is None
        assert [each.seq for each in reader.inspections(verdict=Verdict.NOT_OK)] == list(range(601, 1201))
        assert [each.seq for each in reader.inspections(after=3)] == list(range(4, 1201))
        station, head, seq, totals = reader.head()
    assert (station, head, seq, totals) == ("cell4", line.ledger.written, 1200, line.ledger.totals)


def test_a_trigger_is_answered_once(line, simulator, clock):
    """A second inspection of a trigger, one of an unknown trigger, and one out of sequence are refused."""
    trigger, key = line.arrive()
    with pytest.raises(LedgerError, match="expected seq 1"):
        line.ledger.inspect(trigger, simulator.inspection(2, key, clock()))
    line.answer(trigger, key)
    for wrong in (trigger, 4711):
        with pytest.raises(LedgerError, match="expected it open"):
            line.ledger.inspect(wrong, simulator.inspection(2, key, clock()))
    assert line.ledger.next_seq == 2


def test_nothing_is_decided_without_its_own_frame(line, simulator, clock):
    """A trigger without frame takes no OK, and one with a frame takes no inspection of another frame."""
    now_ns = clock()
    waiting = line.ledger.trigger("top", received_ns=now_ns, deadline_ns=now_ns + 1)
    with pytest.raises(LedgerError, match="NotDecidable without a frame"):
        line.ledger.inspect(waiting, simulator.inspection(1, line.key(), now_ns))
    trigger, _ = line.arrive()
    with pytest.raises(LedgerError, match="expected the inspection of"):
        line.ledger.inspect(trigger, simulator.inspection(1, line.key(), now_ns))
    assert line.answer(waiting, FrameKey("top", 0, 0), error=ErrorWord.CAMERA_LOST) == 1


def test_a_frame_may_follow_its_trigger(line, path, clock):
    """A trigger ahead of its frame is open without one, then with it, and the frame is inspected under it."""
    now_ns = clock()
    trigger = line.ledger.trigger("top", received_ns=now_ns, deadline_ns=now_ns + 10**8, trigger_id=5, part_id="p")
    assert [each.frame for each in line.ledger.open_triggers()] == [None]
    key = line.key()
    line.ledger.frame(key, received_ns=now_ns, trigger=trigger)
    assert [(each.frame, each.trigger_id, each.part_id) for each in line.ledger.open_triggers()] == [(key, 5, "p")]
    with pytest.raises(LedgerError, match="without frame"):
        line.ledger.frame(line.key(), received_ns=now_ns, trigger=trigger)
    line.answer(trigger, key)
    line.ledger.commit()
    assert line.ledger.totals["frames.inspected"] == 1
    assert check(path, now_ns=now_ns) == []


@pytest.mark.parametrize("committed", [False, True])
def test_a_frame_seen_before_leads_to_its_first_result(line, committed):
    """A duplicate finds its trigger while that is open and its first result after, written or not."""
    trigger, key = line.arrive()
    if committed:
        line.ledger.commit()
    assert (line.ledger.find(key).trigger, line.ledger.find(key).seq) == (trigger, None)
    line.answer(trigger, key, verdict=Verdict.NOT_OK)
    if committed:
        line.ledger.commit()
    assert (line.ledger.find(key).seq, line.ledger.find(key).header) == (1, line.headers[1])
    assert line.ledger.find(line.key()) is None
    other, _ = line.arrive()
    with pytest.raises(LedgerError, match="without frame"):
        line.ledger.frame(key, received_ns=0, trigger=other)
    bare = line.ledger.trigger("top", received_ns=0, deadline_ns=0)
    with pytest.raises(LedgerError, match="not seen before"):
        line.ledger.frame(key, received_ns=0, trigger=bare)


def test_no_frame_is_taken_for_a_new_one(opened, clock):
    """Over sessions in turns, commits and restarts a frame is found if and only if it came before, in any order."""
    random, known = Random(7), {}
    line = opened()
    for step in range(900):
        session = 2**64 - 1 - step // 40 * 2 - random.choice((0, 1))  # two at a time, in turns
        key = FrameKey("top", session, random.choice((*range(6), 2**63 - 1, 2**63)))
        earlier = line.ledger.find(key)
        assert (earlier and earlier.trigger) == known.get(key)
        number = line.ledger.arrive(key, received_ns=clock(), deadline_ns=clock())
        if earlier is None:
            known[key] = number
        else:
            assert number.trigger == earlier.trigger
        if random.random() < 0.2:
            line.ledger.commit()
        if random.random() < 0.05:
            line = opened()
    assert len(known) > 200


def test_a_frame_beyond_all_of_its_session_costs_no_question(line, monkeypatch):
    """A camera that numbers its frames upwards has each taken in without a look at the file."""
    questions = []
    monkeypatch.setattr(lookup, "trigger_of_frame", lambda *asked: questions.append(asked))
    line.parts(3)
    assert questions == []


@pytest.mark.parametrize("committed", [False, True])
def test_a_trigger_id_is_found_within_its_window(line, clock, committed):
    """A repeated trigger id finds the newest trigger of its camera, but none older than the caller's window."""
    line.answer(*line.arrive(trigger_id=2**63 + 1))
    received_ns = clock()
    clock.pass_s(60)
    if committed:
        line.ledger.commit()
    assert line.ledger.find_trigger("top", 2**63 + 1, "", received_ns).seq == 1
    assert line.ledger.find_trigger("top", 2**63 + 1, "", received_ns + 1) is None
    assert line.ledger.find_trigger("side", 2**63 + 1, "", 0) is None
    line.answer(*line.arrive(trigger_id=2**63 + 1))
    assert line.ledger.find_trigger("top", 2**63 + 1, "", 0).seq == 2


def test_dropped_frames_are_counted_by_reason(line, path):
    """A frame without trigger is recorded with the reason it was dropped for, as often as it comes."""
    _, key = line.arrive()
    for _ in range(3):
        line.ledger.drop(key, received_ns=1, reason="duplicate")
    line.ledger.note(Event.REFUSED, {"header_crc": 4, "topic": 1})
    line.ledger.note(Event.REFUSED, {"header_crc": 2})
    line.ledger.commit()
    totals = line.ledger.totals
    assert (totals["frames"], totals["frames.dropped.duplicate"]) == (4, 3)
    assert (totals["refused.header_crc"], totals["refused.topic"]) == (6, 1)
    with pytest.raises(LedgerError, match="reason"):
        line.ledger.drop(key, received_ns=1, reason="")
    assert check(path, now_ns=0) == []


def test_what_was_left_open_is_found_when_opening(opened, path, clock):
    """Triggers without inspection, with and without frame, are listed by the next run, which closes them."""
    line = opened()
    line.parts(5)
    first, key = line.arrive("top", trigger_id=2**64 - 1, part_id="p1")
    line.parts(5)
    second = line.ledger.trigger("side", received_ns=clock(), deadline_ns=clock() + 5)
    line = opened()
    found = line.ledger.open_triggers()
    assert [(each.trigger, each.camera, each.frame) for each in found] == [(first, "top", key), (second, "side", None)]
    assert (found[0].trigger_id, found[0].part_id) == (2**64 - 1, "p1")
    assert [problem.kind for problem in check(path, now_ns=clock() + 10**12)] == ["trigger", "trigger"]
    line.answer(first, key, error=ErrorWord.STOPPING)
    line.answer(second, FrameKey("side", 0, 0), error=ErrorWord.STOPPING)
    line.ledger.commit()
    assert line.ledger.open_triggers() == []
    assert check(path, now_ns=clock() + 10**12) == []


def test_openings_say_whether_the_run_before_ended_well(opened, path):
    """Each opening is recorded with its run id, and the first record tells the station."""
    opened(run_id="a")
    opened(run_id="b")
    with Reader(path) as reader:
        kinds = [(each.kind, each.detail.get("run_id"), each.detail.get("clean")) for each in reader.events()]
        created = next(reader.events(kind="created"))
    assert kinds == [
        ("created", None, None),
        ("opened", "a", True),
        ("closed", None, None),
        ("opened", "b", True),
    ]
    assert created.detail["station"] == "cell4"


def test_there_is_one_writer(line, path):
    """A second writer is turned away at once, and the first is not disturbed."""
    with pytest.raises(LedgerError, match="only writer"):
        Ledger(path, "cell4")
    line.parts(1)


def test_a_ledger_belongs_to_one_station(opened, path):
    """A ledger is not taken up by a station of another name."""
    opened().ledger.close()
    with pytest.raises(LedgerError, match="'cell4'"):
        Ledger(path, "cell5")


def test_a_ledger_cut_from_outside_is_not_taken_up(opened, path):
    """A ledger whose last records are gone is refused by the next writer, which says what to do."""
    opened().parts(2)
    opened().ledger.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM events WHERE record = (SELECT max(record) FROM events)")
    with pytest.raises(LedgerError, match="changed from outside"):
        Ledger(path, "cell4")


def test_a_file_that_is_no_ledger_is_refused(path):
    """Another program's database, a text file and a missing file are named as such, for writing and reading."""
    path.parent.mkdir()
    with pytest.raises(LedgerError, match="found none"):
        Reader(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE other (x)")
    for open_it in (lambda: Ledger(path, "cell4"), lambda: Reader(path)):
        with pytest.raises(LedgerError, match="expected a ledger of version 1"):
            open_it()
    path.write_text("no database at all, but long enough to be looked at " * 20)
    for open_it in (lambda: Ledger(path, "cell4"), lambda: Reader(path)):
        with pytest.raises(LedgerError, match="not a database"):
            open_it()
    assert [problem.kind for problem in check(path)] == ["file"]


def test_a_value_the_chain_cannot_carry_changes_nothing(line, path):
    """Text that is no UTF-8, and an integer beyond 64 bits, are refused before anything is chained."""
    before = line.ledger.unwritten
    for camera, time_ns in (("\ud800", 0), ("top", 2**64)):
        with pytest.raises(LedgerError, match="64 bits"):
            line.ledger.trigger(camera, received_ns=time_ns, deadline_ns=2**70)
    assert line.ledger.unwritten == before
    line.parts(1)
    assert check(path, now_ns=0) == []


def test_a_disk_that_cannot_be_read_is_the_ledgers_own_error(line, monkeypatch):
    """Whatever SQLite raises over a question is a LedgerError; a frame still in work is known without a question."""

    class Broken:
        def execute(self, *_):
            raise sqlite3.OperationalError("disk I/O error")

    _, key = line.arrive(trigger_id=5)
    line.parts(1)
    _, waiting = line.arrive(trigger_id=6)
    with monkeypatch.context() as patch:
        patch.setattr(line.ledger.journal, "connection", Broken())
        assert line.ledger.find(waiting).header is None
        assert line.ledger.find_trigger("top", 6, "", 0).header is None
        kept = Kept(1, Verdict.OK, 3, bytes(32))
        for ask in (lambda: line.ledger.find(key), lambda: line.ledger.keep(kept)):
            with pytest.raises(LedgerError, match="disk I/O error"):
                ask()
    assert line.ledger.find(key).header is None


@pytest.mark.parametrize("number", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_unsigned_numbers_come_back(number):
    """Every unsigned 64-bit number survives SQLite's signed integer, and the small half looks like itself."""
    assert -(2**63) <= signed(number) < 2**63
    assert unsigned(signed(number)) == number
    assert signed(number) == number or number >= 2**63
