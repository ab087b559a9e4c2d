"""The host's book-keeping against its clock: when it writes, what it does about a full disk, when it cleans up."""

from __future__ import annotations

import time

import pytest

from runtime.errors import LedgerError, WireError
from runtime.frame import FrameHeader, PixelFormat
from runtime.host import ledger_records, upkeep
from runtime.host.ledger_records import RETRY_NS, SUMMARY_NS, LedgerRecords
from runtime.host.pace import COMMIT_NS
from runtime.host.upkeep import CLEAN_NS, NEVER_QUIET_NS, NEVER_QUIET_ON_NS, ROOM_NS
from runtime.inspection import Inspection, Verdict
from runtime.ledger import LedgerFull, Reader, check
from runtime.station.config import Evidence, Ledger

NOW = 10**15


@pytest.fixture
def settings(tmp_path):
    """Return the settings of a ledger in a folder of the test's own."""
    return Ledger(path=tmp_path / "ledger", evidence=Evidence(ok_every=1))


@pytest.fixture
def records(settings):
    """Return records that are closed at the end."""
    records = LedgerRecords(settings, "line1", "run")
    yield records
    records.close()


def header(number):
    """Return the header of a 2 x 3 frame."""
    return FrameHeader("top", 1, number, 2, 3, PixelFormat.MONO8, 0)


def admit(records, number):
    """Take a frame in; return its trigger."""
    frame, now_ns = header(number), time.time_ns()
    trigger = records.admit(frame, now_ns, 1000)
    if isinstance(trigger, int):
        records.enter(trigger, frame, now_ns, 1000)
    return trigger


def inspect(records, trigger, number):
    """Answer a trigger OK; return the inspection."""
    made = Inspection(
        result_id=f"run-{records.next_seq}", seq=records.next_seq, station="line1", camera="top", session=1,
        frame_id=number, verdict=Verdict.OK, score=0.1, threshold=0.5, published_ns=time.time_ns(),
    )  # fmt: skip
    records.inspect(trigger, made)
    return made


def part(records, number, now_ns):
    """Take a frame through in one turn."""
    made = inspect(records, admit(records, number), number)
    end_turn(records, now_ns)
    return made


def end_turn(records, now_ns):
    """End a turn, and write at once what it brought: results wait."""
    records.end_turn(now_ns)
    records.write(now_ns)


def test_results_are_written_at_once_and_triggers_soon(records):
    """A turn with results commits; one with a trigger alone commits two milliseconds later, and says when."""
    part(records, 0, NOW)
    assert records.ledger.unwritten == 0
    trigger = admit(records, 1)
    records.end_turn(NOW)
    assert records.ledger.unwritten == 2
    assert records.next_due_ns() == min(NOW + COMMIT_NS, records._upkeep.due_ns)
    records.end_turn(NOW + COMMIT_NS - 1)
    assert records.ledger.unwritten == 2
    records.end_turn(NOW + COMMIT_NS)
    assert records.ledger.unwritten == 0
    inspect(records, trigger, 1)
    end_turn(records, NOW + COMMIT_NS)
    assert records.ledger.written_seq == 2


def test_frames_of_a_slow_detector_are_written_in_their_own_turn(records):
    """Once a frame waited for its answer in vain the next is committed at once; after an answer in time it waits."""
    slow = admit(records, 0)
    records.end_turn(NOW)
    records.end_turn(NOW + COMMIT_NS)
    inspect(records, slow, 0)
    end_turn(records, NOW + 7 * COMMIT_NS)
    quick = admit(records, 1)
    records.end_turn(NOW + 8 * COMMIT_NS)
    assert records.ledger.unwritten == 0, "nobody waited"
    inspect(records, quick, 1)
    end_turn(records, NOW + 9 * COMMIT_NS - 1)
    admit(records, 2)
    records.end_turn(NOW + 9 * COMMIT_NS)
    assert records.ledger.unwritten == 2, "the last answer came in time: one transaction will do"


def test_what_somebody_else_wrote_is_not_waited_for(records):
    """A commit that came before the turn's own, as cleaning up does, leaves no time behind at which the loop wakes."""
    records.clean(NOW, quiet=True)
    admit(records, 0)
    records.end_turn(NOW)
    assert records.next_due_ns() == NOW + COMMIT_NS
    records.ledger.commit()
    records.end_turn(NOW + COMMIT_NS)
    assert records.next_due_ns() == records._upkeep.due_ns > NOW + COMMIT_NS


def test_refusals_are_summed_up_once_a_second(records, settings):
    """The first refusal is an event at once, those of the following second one more, with their number."""
    for turn in range(5):
        for _ in range(1 + turn):
            records.refuse("topic")
        end_turn(records, NOW + turn)
    assert records.next_due_ns() is not None
    end_turn(records, NOW + SUMMARY_NS)
    with Reader(settings.file) as reader:
        assert [each.detail for each in reader.events(kind="refused")] == [{"topic": 1}, {"topic": 14}]


def full(ledger):
    """Raise what a full disk raises."""
    ledger.journal.full = True
    raise LedgerFull("full")


def test_a_full_disk_costs_evidence_then_nothing_else(records, settings, monkeypatch):
    """A commit without room removes the oldest evidence and commits; failing that it is tried again after a pause."""
    made = part(records, 0, NOW)
    records.keep(made, header(0), {"frame": bytes(100)})
    while not records._writer._done:
        time.sleep(0.001)
    end_turn(records, NOW)
    assert records.status()["evidence_bytes"] > 100
    with monkeypatch.context() as patch:
        patch.setattr(records.ledger, "commit", lambda: full(records.ledger))
        part(records, 1, NOW)
        status = records.status()
        assert (status["seq"], status["short_of_room"], status["trouble"]) == (1, True, "full")
        assert records.next_due_ns() == NOW + RETRY_NS
        calls = []
        patch.setattr(records.ledger, "commit", lambda: calls.append(1))
        part(records, 2, NOW + 1)
        assert calls == [], "a disk that is full is not asked again for every part"
    part(records, 3, NOW + RETRY_NS)
    status = records.status()
    assert (status["seq"], status["unwritten"], status["trouble"]) == (4, 0, "")
    assert status["evidence_bytes"] == 0, "the oldest evidence made room"
    assert check(settings.file, folder=settings.evidence_folder, now_ns=0) == []


def test_room_is_not_made_again_at_once(records, monkeypatch):
    """Evidence is not thrown after a full disk turn by turn: the checkpointer must have had its own turn first."""
    made = []
    monkeypatch.setattr(upkeep, "make_room", lambda *_: made.append(1) or 0)
    assert [records._upkeep.make_room(NOW + at) for at in (0, 1, ROOM_NS - 1, ROOM_NS)] == [True, False, False, True]
    assert len(made) == 2


def test_a_disk_that_fails_for_too_long_is_refused_at_the_door(records, monkeypatch):
    """A commit that fails otherwise is trouble, not the end; with too many records waiting a frame is refused."""

    def fail():
        raise LedgerError("input/output error")

    monkeypatch.setattr(ledger_records, "MOST_UNWRITTEN", 6)
    with monkeypatch.context() as patch:
        patch.setattr(records.ledger, "commit", fail)
        for number in range(2):
            part(records, number, NOW + number * RETRY_NS)
        assert records.status()["trouble"] == "input/output error"
        with pytest.raises(WireError) as refused:
            admit(records, 2)
        assert refused.value.reason == "unrecorded"
    end_turn(records, NOW + 9 * RETRY_NS)
    assert records.status()["trouble"] == ""
    part(records, 2, NOW + 9 * RETRY_NS)
    assert records.ledger.written_seq == 3


def test_refusals_do_not_fill_the_memory(records, monkeypatch):
    """With as many records waiting as there may be, refusals only add up; once written, one event tells them all."""

    def fail():
        raise LedgerError("input/output error")

    monkeypatch.setattr(ledger_records, "MOST_UNWRITTEN", 6)
    with monkeypatch.context() as patch:
        patch.setattr(records.ledger, "commit", fail)
        for number in range(2):
            part(records, number, NOW)
        waiting = records.ledger.unwritten
        for second in range(1, 50):
            records.refuse("unrecorded")
            records.end_turn(NOW + second * SUMMARY_NS)
        assert records.ledger.unwritten == waiting
        assert records.next_due_ns() > NOW + 49 * SUMMARY_NS - RETRY_NS, "a full memory must not keep the loop awake"
    for second in (50, 51):
        end_turn(records, NOW + second * SUMMARY_NS)
    assert records.ledger.totals["refused.unrecorded"] == 49
    assert records.ledger.totals["events.refused"] == 1


def test_old_records_go_in_quiet_turns(settings, monkeypatch):
    """Retention works when a turn is quiet; while it finds something a busy line does not hold it up either."""
    monkeypatch.setattr(upkeep, "CLEAN_RECORDS", 20)
    short = settings.model_copy(update={"most_days": 1e-9})
    records = LedgerRecords(short, "line1", "run")
    records._upkeep.due_ns = NOW
    for number in range(20):
        part(records, number, NOW)
    records.clean(NOW, quiet=False)
    with Reader(settings.file) as reader:
        assert reader.anchor().record == 0
        records.clean(NOW, quiet=True)
        first = reader.anchor().record
        assert first == 20
        assert NOW < records._upkeep.due_ns < NOW + CLEAN_NS
        records.clean(records._upkeep.due_ns - 1, quiet=True)
        assert reader.anchor().record == first
        records.clean(records._upkeep.due_ns + NEVER_QUIET_ON_NS - 1, quiet=False)
        assert reader.anchor().record == first
        records.clean(records._upkeep.due_ns + NEVER_QUIET_ON_NS + 1, quiet=False)
        assert reader.anchor().record == 2 * first
        while records._upkeep.due_ns < NOW + CLEAN_NS:  # until nothing is left to be found
            records.clean(records._upkeep.due_ns, quiet=True)
        last = reader.anchor().record
        part(records, 99, NOW)
        records.clean(records._upkeep.due_ns + NEVER_QUIET_NS - 1, quiet=False)
        assert reader.anchor().record == last
    records.close()
    assert check(settings.file, folder=settings.evidence_folder, now_ns=0) == []


def test_what_is_left_is_written_at_the_end(settings):
    """Closing writes queued evidence, refusals not told yet and open triggers, and lets go of the ledger."""
    records = LedgerRecords(settings, "line1", "run")
    made = part(records, 0, NOW)
    records.keep(made, header(0), {"frame": b"x"})
    records.refuse("topic")
    end_turn(records, NOW)
    records.refuse("parts")
    admit(records, 1)
    records.close()
    again = LedgerRecords(settings, "line1", "run2")
    assert [each.frame.frame_id for each in again.left_open()] == [1]
    again.close()
    with Reader(settings.file) as reader:
        assert [each.detail for each in reader.events(kind="refused")] == [{"topic": 1}, {"parts": 1}]
        assert reader.evidence(1) is not None
    assert check(settings.file, folder=settings.evidence_folder, now_ns=0) == []
