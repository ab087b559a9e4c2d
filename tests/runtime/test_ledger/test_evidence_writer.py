"""The evidence writer: what it takes it copies and writes, what it cannot take it counts, and it never waits."""

from __future__ import annotations

import threading
import time

import pytest

from runtime.errors import LedgerError
from runtime.inspection import Verdict
from runtime.ledger import LedgerFull, evidence
from runtime.ledger.evidence_writer import DISK_ERROR, DISK_FULL, QUEUE_FULL, EvidenceWriter


@pytest.fixture
def gate(monkeypatch):
    """Return (gate, entered): writing waits for the one and tells of itself by the other."""
    opened, entered = threading.Event(), threading.Event()
    write = evidence.write

    def slow(*arguments):
        entered.set()
        assert opened.wait(20)
        return write(*arguments)

    monkeypatch.setattr(evidence, "write", slow)
    yield opened, entered
    opened.set()


def test_what_it_takes_is_written_as_it_was_then(folder, gate):
    """A buffer that changes after it was offered, as a slot does, does not change the file."""
    writer = EvidenceWriter(folder)
    pixels = bytearray(b"first")
    assert writer.offer(7, Verdict.NOT_OK, {"frame": memoryview(pixels), "header": b"h"})
    pixels[:] = b"other"
    gate[0].set()
    writer.close()
    (kept,) = writer.taken()
    assert (kept.seq, kept.verdict) == (7, Verdict.NOT_OK)
    assert evidence.read(folder, kept) == {"frame": b"first", "header": b"h"}
    assert (writer.waiting, writer.waiting_bytes, writer.skipped()) == (0, 0, {})


def test_a_full_queue_turns_away_and_counts(folder, gate):
    """Beyond its budget evidence is refused at once, and counted; one file alone is taken whatever its size."""
    writer = EvidenceWriter(folder, budget_bytes=100)
    assert writer.offer(1, Verdict.NOT_OK, {"frame": bytes(1000)})
    begun = time.perf_counter()
    assert [writer.offer(seq, Verdict.NOT_OK, {"frame": bytes(1)}) for seq in (2, 3)] == [False, False]
    assert time.perf_counter() - begun < 0.5
    assert writer.skipped() == {QUEUE_FULL: 2}
    assert writer.skipped() == {}
    gate[0].set()
    writer.close()
    assert [kept.seq for kept in writer.taken()] == [1]


def test_many_small_files_are_a_full_queue_too(folder, gate, monkeypatch):
    """A queue is bounded by files, too."""
    monkeypatch.setattr("runtime.ledger.evidence_writer.MOST_WAITING", 3)
    writer = EvidenceWriter(folder)
    assert [writer.offer(seq, Verdict.NOT_OK, {"frame": b""}) for seq in range(1, 6)] == [True] * 3 + [False] * 2
    gate[0].set()
    writer.close()
    assert len(writer.taken()) == 3


@pytest.mark.parametrize(
    ("error", "word"),
    [(LedgerFull("no room"), DISK_FULL), (LedgerError("no disk"), DISK_ERROR), (RuntimeError("a bug"), DISK_ERROR)],
)
def test_a_disk_that_fails_is_counted_and_logged_once(folder, monkeypatch, caplog, error, word):
    """Whatever writing raises, the thread lives on, each file is counted, and the log has one line."""

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(evidence, "write", fail)
        writer = EvidenceWriter(folder)
        for seq in (1, 2):
            writer.offer(seq, Verdict.NOT_OK, {"frame": b"x"})
        while len(writer._done) < 2:
            time.sleep(0.001)
    writer.offer(3, Verdict.NOT_OK, {"frame": b"x"})
    writer.close()
    assert [kept.seq for kept in writer.taken()] == [3]
    assert writer.skipped() == {word: 2}
    assert len([each for each in caplog.records if "evidence is not kept" in each.message]) == 1


def test_a_folder_removed_under_its_hands(folder, monkeypatch):
    """The ledger's thread may remove the last file of a folder, and the folder, just before a file is made in it."""
    import os

    opened, tries = os.open, []

    def vanish(path, *rest, **named):
        if not tries and str(path).endswith(".unfinished"):
            tries.append(path)
            path.parent.rmdir()
        return opened(path, *rest, **named)

    monkeypatch.setattr(os, "open", vanish)
    kept = evidence.write(folder, 5, Verdict.NOT_OK, {"frame": b"x"})
    assert tries
    assert evidence.read(folder, kept) == {"frame": b"x"}
