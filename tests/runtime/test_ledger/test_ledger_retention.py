"""What retention removes, and that the ledger still proves itself without it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import EvidencePolicy, LedgerError, Reader, Retention, check, evidence, prune, reconcile, retire
from runtime.ledger.removal import FILES_PER_EVENT, kept_bytes
from runtime.ledger.retention import used_bytes

SECOND_NS = 10**9


def test_old_records_go_and_the_rest_proves_itself(line, path, folder, clock):
    """After records older than the limit are gone, totals, sequence and chain hold as before, over a restart too."""
    line.parts(100)
    before = line.ledger.totals
    removed = prune(line.ledger, folder, Retention(most_ns=40 * SECOND_NS), clock())
    assert removed == 2 + 60 * 3  # created, opened, and sixty parts of three records
    with Reader(path) as reader:
        assert [each.seq for each in reader.inspections()] == list(range(61, 101))
        assert reader.anchor().seq == 60
        assert reader.inspection(60) is None
    assert line.ledger.totals - before == {"events.pruned": 1}
    assert check(path, now_ns=0) == []
    assert line.parts(1) == [101]
    assert prune(line.ledger, folder, Retention(most_ns=40 * SECOND_NS), clock()) > 0
    assert check(path, now_ns=0) == []


def test_nothing_young_goes(line, folder, clock):
    """Within age and size nothing is removed, and nothing is recorded about it."""
    line.parts(5)
    head = line.ledger.written
    assert prune(line.ledger, folder, Retention(), clock()) == 0
    assert line.ledger.written == head


def test_a_call_removes_a_bounded_number(line, path, folder, clock):
    """One call removes at most its limit; repeated calls end, and leave what the limit of age leaves."""
    line.parts(50)
    clock.pass_s(1000)
    retention = Retention(most_ns=10 * SECOND_NS)
    calls = []
    while removed := prune(line.ledger, folder, retention, clock(), limit=20):
        calls.append(removed)
        assert check(path, now_ns=0) == []
    assert max(calls) == 20
    assert sum(calls) == 2 + 50 * 3
    assert line.ledger.totals["inspections"] == 50


def test_a_ledger_shrinks_to_its_size(line, path, folder, clock):
    """Above its size a ledger loses its oldest records until it fits, and the file is used again."""
    line.parts(2000)
    most = used_bytes(line.ledger.journal.connection) // 2
    while prune(line.ledger, folder, Retention(most_bytes=most), clock(), limit=200):
        pass
    assert 0.7 * most < used_bytes(line.ledger.journal.connection) <= most
    line.parts(200)
    prune(line.ledger, folder, Retention(most_bytes=most), clock(), limit=600)
    line.ledger.close()
    assert path.stat().st_size < 2.2 * most
    assert check(path, now_ns=0) == []


def test_a_tiny_size_keeps_the_last_records(line, path, folder, clock):
    """A size no ledger can have ends with the newest records kept, not in a loop."""
    line.parts(50)
    calls = 0
    while prune(line.ledger, folder, Retention(most_bytes=1), clock(), limit=30):
        calls += 1
        assert calls < 100
    assert check(path, now_ns=0) == []
    with Reader(path) as reader:
        assert [each.seq for each in reader.inspections()][-1] == 50


def test_a_cut_through_parts_in_work_holds(opened, path, folder, clock):
    """Wherever the cut falls between triggers, frames and inspections of overlapping parts, the books balance."""
    for limit in range(10, 30):
        line = opened()
        inside = []
        for number in range(20):
            inside.append(line.arrive())
            if number >= 3:
                line.answer(*inside.pop(number % 3))
            clock.pass_s(1)
        for each in inside:
            line.answer(*each)
        clock.pass_s(100)
        assert prune(line.ledger, folder, Retention(most_ns=0), clock(), limit=limit) == limit
        assert check(path, now_ns=clock()) == []


def test_an_open_trigger_is_never_removed(line, path, folder, clock):
    """However old, a trigger without inspection stays, and everything after it; once answered it goes."""
    line.parts(3)
    trigger, key = line.arrive()
    line.parts(3)
    clock.pass_s(10**6)
    retention = Retention(most_ns=0)
    prune(line.ledger, folder, retention, clock())
    with Reader(path) as reader:
        assert reader.anchor().record == trigger - 1
    assert prune(line.ledger, folder, retention, clock()) == 0
    line.answer(trigger, key, error=ErrorWord.STOPPING)
    assert prune(line.ledger, folder, retention, clock() + 1) > 0
    assert check(path, now_ns=0) == []


def test_the_anchor_is_signed_off(line, path, folder, clock):
    """A changed anchor, and an old end removed without one, are found."""
    line.parts(10)
    prune(line.ledger, folder, Retention(most_ns=5 * SECOND_NS), clock())
    line.ledger.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        whole = connection.execute("SELECT record, detail FROM events WHERE kind = 'pruned'").fetchone()
        for changed in (
            whole[1].replace('"frames":5', '"frames":4'),
            whole[1].replace('"record":1', '"record":2'),
            "{",
        ):
            assert changed != whole[1]
            connection.execute("UPDATE events SET detail = ? WHERE record = ?", (changed, whole[0]))
            assert check(path, now_ns=0), changed
        connection.execute("UPDATE events SET detail = ? WHERE record = ?", (whole[1], whole[0]))
        assert check(path, now_ns=0) == []
        connection.execute("DELETE FROM triggers WHERE record = (SELECT min(record) FROM triggers)")
    assert check(path, now_ns=0)


def keep(line, folder, seq, verdict, size=1000):
    """Keep evidence of an inspection."""
    line.ledger.keep(evidence.write(folder, seq, verdict, {"frame": bytes(size), "map": b"m" * 10}))
    line.ledger.commit()


def test_evidence_is_read_back_whole(line, path, folder):
    """Parts come back by name and byte for byte, proven by the ledger; a second file for one inspection is refused."""
    line.parts(1)
    parts = {"frame": bytes(range(256)) * 40, "header": b"", "map": b"\n\n{"}
    line.ledger.keep(evidence.write(folder, 1, Verdict.OK, parts))
    with pytest.raises(LedgerError, match="second"):
        line.ledger.keep(evidence.write(folder, 1, Verdict.OK, parts))
    line.ledger.commit()
    for wrong in (1, 2):
        with pytest.raises(LedgerError):
            line.ledger.keep(evidence.write(folder, wrong, Verdict.OK, parts))
    with Reader(path) as reader:
        assert evidence.read(folder, reader.evidence(1)) == parts
        assert reader.evidence(2) is None


def test_evidence_goes_by_age_of_its_verdict(line, path, folder, clock):
    """Evidence of OK goes after its time, that of NotOK and NotDecidable after theirs; the records stay."""
    verdicts = [Verdict.OK, Verdict.NOT_OK, Verdict.NOT_DECIDABLE] * 3
    for verdict in verdicts:
        [seq] = line.parts(1, verdict=verdict)
        keep(line, folder, seq, verdict)
        clock.pass_s(9)
    policy = EvidencePolicy(ok_ns=40 * SECOND_NS, other_ns=70 * SECOND_NS)
    assert retire(line.ledger, folder, policy, clock()) == 3
    assert sorted(evidence.listed(folder)) == [3, 5, 6, 7, 8, 9]
    assert retire(line.ledger, folder, policy, clock()) == 0
    assert check(path, folder=folder, now_ns=0) == []
    with Reader(path) as reader:
        assert reader.evidence(1) is None
        assert reader.evidence(3) is not None
        [event] = reader.events(kind="evidence_removed")
    assert event.detail == {"reason": "age", "seqs": [1, 2, 4]}


def test_evidence_goes_oldest_first_where_it_is_too_much(line, path, folder, clock):
    """Beyond its size the oldest evidence goes, whatever its verdict, and no more than needed."""
    for seq in line.parts(10):
        keep(line, folder, seq, Verdict.NOT_OK if seq % 2 else Verdict.OK)
    size = kept_bytes(line.ledger.journal.connection) // 10
    assert retire(line.ledger, folder, EvidencePolicy(most_bytes=6 * size + 20), clock()) == 4
    assert sorted(evidence.listed(folder)) == list(range(5, 11))
    assert check(path, folder=folder, now_ns=0) == []


def test_the_policy_keeps_what_matters():
    """All evidence of NotOK and NotDecidable is worth keeping, and every n-th OK, or none."""
    policy = EvidencePolicy(ok_every=10)
    assert [seq for seq in range(1, 31) if policy.keeps(Verdict.OK, seq)] == [10, 20, 30]
    assert all(policy.keeps(verdict, 3) for verdict in (Verdict.NOT_OK, Verdict.NOT_DECIDABLE))
    assert not any(EvidencePolicy(ok_every=0).keeps(Verdict.OK, seq) for seq in range(1000))


def test_evidence_goes_with_its_record(line, path, folder, clock):
    """Removing an inspection's record removes its evidence, and says so."""
    for seq in line.parts(FILES_PER_EVENT + 20):
        line.ledger.keep(evidence.write(folder, seq, Verdict.OK, {"frame": b"x"}))
    line.ledger.commit()
    clock.pass_s(500)
    assert prune(line.ledger, folder, Retention(most_ns=0), clock(), limit=10**6) > 0
    assert list(evidence.listed(folder)) == []
    assert kept_bytes(line.ledger.journal.connection) == 0
    assert check(path, folder=folder, now_ns=0) == []


def test_files_and_records_are_brought_together(opened, path, folder):
    """Files a killed host wrote without record go; records whose file is lost say so, and the check is clean again."""
    line = opened()
    for seq in line.parts(4):
        keep(line, folder, seq, Verdict.OK)
    evidence.write(folder, 77_777, Verdict.OK, {"frame": b"orphan"})
    (evidence.path_of(folder, 2).with_name("000000000002.evidence.unfinished")).write_bytes(b"half")
    evidence.path_of(folder, 3).unlink()
    assert [each.kind for each in check(path, folder=folder, now_ns=0)] == ["evidence"]
    line = opened()
    assert reconcile(line.ledger, folder) == (1, 1)
    assert reconcile(line.ledger, folder) == (0, 0)
    assert sorted(path.name for path in folder.glob("*/*")) == [f"{seq:012d}.evidence" for seq in (1, 2, 4)]
    assert check(path, folder=folder, now_ns=0) == []
    with Reader(path) as reader:
        assert [each.detail for each in reader.events(kind="evidence_removed")] == [{"reason": "lost", "seqs": [3]}]
