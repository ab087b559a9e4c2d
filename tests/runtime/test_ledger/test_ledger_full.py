"""A full disk: told by one exception, nothing lost, nothing torn, and work goes on once there is room."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from runtime.inspection import Verdict
from runtime.ledger import (
    EvidencePolicy,
    Ledger,
    LedgerError,
    LedgerFull,
    Outbox,
    Reader,
    Retention,
    check,
    evidence,
    make_room,
    prune,
    retire,
)
from runtime.ledger import removal as removal_module
from runtime.ledger import writer as writer_module
from runtime.ledger.errors import told

FULL = Path(__file__).parent / "full.py"


def fill(line):
    """Forbid the ledger's file to grow, and record parts until it cannot; return how many went in before."""
    connection = line.ledger.journal.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 8}")
    for number in range(10_000):
        try:
            line.parts(1)
        except LedgerFull:
            return number
    raise AssertionError


def free(line):
    """Let the ledger's file grow again."""
    line.ledger.journal.connection.execute("PRAGMA max_page_count = 1000000")


def test_leaving_holds_on_a_full_disk(line, path):
    """A subscriber that leaves on a full disk is owed nothing from then on; it is written once there is room."""
    box = Outbox(line.ledger)
    box.register("mes")
    box.register("display")
    fill(line)
    box.unregister("mes")
    assert box.names() == ["display"]
    with pytest.raises(LedgerError, match="register it first"):
        box.lag("mes")
    with pytest.raises(LedgerFull):
        box.register("mes")
    assert box.names() == ["display"]
    free(line)
    line.ledger.commit()
    with Reader(path) as reader:
        events = [(each.kind, each.detail.get("subscriber")) for each in reader.events()]
    assert events.count(("unregistered", "mes")) == 1
    assert box.register("mes")
    assert box.names() == ["display", "mes"]
    assert check(path, now_ns=0) == []


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "mounted read-only"),
        (OSError(errno.EIO, "Input/output error"), "look at the disk"),
        (OSError(errno.EACCES, "Permission denied"), "the user who runs this"),
        (OSError(errno.EMFILE, "Too many open files"), "raise the limit"),
        (OSError(errno.EISDIR, "Is a directory"), "Is a directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "free the disk"),
    ],
)
def test_the_advice_fits_what_went_wrong(error, advice, path):
    """Each trouble of the system is told with what mends it, and none with a check that could not help."""
    with pytest.raises(LedgerError, match=advice) as caught, told("write", path):
        raise error
    assert "ledger check" not in str(caught.value)
    assert isinstance(caught.value, LedgerFull) == (error.errno == errno.ENOSPC)


def test_the_advice_fits_what_sqlite_says(path):
    """A locked database names the other program, a damaged one the check, a missing one its folder."""
    path.parent.mkdir()
    for make, advice in ((_lock, "another program"), (_damage, "begins a new ledger"), (_lose, "belong to")):
        with pytest.raises(LedgerError, match=advice), told("read", path):
            make(path)


def _lock(path):
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(path, timeout=0)) as other:
        one.execute("BEGIN EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")


def _damage(path):
    path.write_bytes(b"\xa5" * 8192)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM sqlite_master")


def _lose(path):
    with closing(sqlite3.connect(f"file:{path.parent / 'nosuch' / 'x'}?mode=ro", uri=True)) as connection:
        connection.execute("SELECT 1")


def test_a_full_disk_is_told_and_costs_nothing(line, path):
    """The commit that finds no room says so and keeps its records; with room the next one writes them all, in order."""
    went_in = fill(line)
    assert went_in > 3
    assert line.ledger.short_of_room
    assert check(path, now_ns=0) == [], "what was committed before is whole"
    for _ in range(5):
        with pytest.raises(LedgerFull, match="full"):
            line.parts(1)
    assert (line.ledger.written_seq, line.ledger.next_seq) == (went_in, went_in + 7)
    duplicate = next(iter(line.ledger._keys))
    assert line.ledger.find(duplicate).seq == went_in + 1, "what waits in memory is known all the same"
    free(line)
    line.ledger.commit()
    assert not line.ledger.short_of_room
    assert (line.ledger.written_seq, line.ledger.unwritten) == (went_in + 6, 0)
    assert check(path, now_ns=0) == []
    with Reader(path) as reader:
        assert [each.seq for each in reader.inspections()] == list(range(1, went_in + 7))
        assert [each.header for each in reader.inspections()] == list(line.headers.values())
        assert len(list(reader.events(kind="disk_full"))) == 1, "the fact is recorded, once"


def test_a_disk_full_for_long_is_refused_at_the_door(line, path, monkeypatch):
    """Past the limit of records in memory no trigger is taken; those taken are still answered, and room ends it."""
    monkeypatch.setattr(writer_module, "MOST_UNWRITTEN", 20)
    trigger, key = line.arrive()
    fill(line)
    with pytest.raises(LedgerFull, match="free it"):  # noqa: PT012 -- which of them is the first to be refused is not the point
        for _ in range(30):
            line.answer(*line.arrive())
    line.answer(trigger, key)
    free(line)
    line.ledger.commit()
    line.parts(1)
    assert check(path, now_ns=10**30) == []


def test_the_oldest_evidence_makes_room(line, path, folder):
    """Making room removes the oldest evidence first, no more than asked, records it, and commits what waited."""
    for seq in line.parts(6):
        line.ledger.keep(evidence.write(folder, seq, Verdict.NOT_OK, {"frame": bytes(1000)}))
    line.ledger.commit()
    fill(line)
    with pytest.raises(LedgerFull):
        make_room(line.ledger, folder, 1500)
    assert sorted(evidence.listed(folder)) == [3, 4, 5, 6], "two files of a thousand bytes"
    free(line)
    assert 1000 < make_room(line.ledger, folder, 500) < 1200
    assert sorted(evidence.listed(folder)) == [4, 5, 6]
    assert make_room(line.ledger, folder, 10**9) > 3000
    assert make_room(line.ledger, folder, 10**9) == 0
    line.parts(1)
    assert check(path, folder=folder, now_ns=0) == []
    with Reader(path) as reader:
        removed = [(each.detail["reason"], each.detail["seqs"]) for each in reader.events(kind="evidence_removed")]
    assert removed == [("disk_full", [1, 2]), ("disk_full", [3]), ("disk_full", [4, 5, 6])]


def test_making_room_never_takes_everything_at_once(line, path, folder, monkeypatch):
    """One call removes a bounded number of files, even while the log finds no room; the next call goes on."""
    monkeypatch.setattr(removal_module, "FILES_PER_EVENT", 3)
    for seq in line.parts(8):
        line.ledger.keep(evidence.write(folder, seq, Verdict.NOT_OK, {"frame": bytes(100)}))
    line.ledger.commit()
    monkeypatch.setattr(removal_module, "_room_for_log", lambda _: False)
    make_room(line.ledger, folder, 100)
    assert sorted(evidence.listed(folder)) == [4, 5, 6, 7, 8]
    make_room(line.ledger, folder, 100)
    assert sorted(evidence.listed(folder)) == [7, 8]
    assert check(path, folder=folder, now_ns=0) == []


def test_removing_records_makes_room_inside_the_file(line, path, folder, clock):
    """Removing old records lets a file that may not grow take new ones."""
    line.parts(50)
    clock.pass_s(1000)
    prune(line.ledger, folder, Retention(most_ns=500 * 10**9), clock())
    connection = line.ledger.journal.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    line.parts(25)
    assert check(path, now_ns=0) == []


def test_keeping_house_on_a_full_disk_is_safe(line, path, folder, clock):
    """Retention that finds no room says so; repeated with room it finishes, and nothing is recorded twice."""
    for seq in line.parts(6):
        line.ledger.keep(evidence.write(folder, seq, Verdict.OK, {"frame": bytes(1000)}))
    line.ledger.commit()
    fill(line)
    clock.pass_s(10**6)
    for work in (
        lambda: prune(line.ledger, folder, Retention(most_ns=0), clock()),
        lambda: retire(line.ledger, folder, EvidencePolicy(ok_ns=0), clock()),
    ):
        with pytest.raises(LedgerFull):
            work()
    free(line)
    assert retire(line.ledger, folder, EvidencePolicy(ok_ns=0), clock()) == 6
    assert prune(line.ledger, folder, Retention(most_ns=0), clock()) > 20
    assert check(path, folder=folder, now_ns=0) == []


def test_room_belongs_to_the_checkpoint_first(line, path, monkeypatch):
    """While the log finds no room in the file nothing is added to it: a log that grew would take the room for ever."""
    line.parts(1)
    log = path.with_name(path.name + "-wal")
    size = log.stat().st_size
    line.ledger._checkpointer.close()
    line.ledger._checkpointer.full = True

    def refuse():
        raise LedgerFull

    with monkeypatch.context() as patch:
        patch.setattr(line.ledger.journal, "checkpoint", refuse)
        for _ in range(5):
            with pytest.raises(LedgerFull):
                line.parts(1)
    assert (log.stat().st_size, line.ledger.written_seq) == (size, 1)
    line.parts(1)
    assert line.ledger.written_seq == 7
    assert check(path, now_ns=0) == []


def test_closing_on_a_full_disk_says_so(line, path, simulator, clock):
    """A station that stops on a full disk is told that it could not write all; the ledger opens again, whole."""
    went_in = fill(line)
    with pytest.raises(LedgerFull):
        line.ledger.close()
    with Ledger(path, simulator.STATION, clock=clock) as ledger:
        assert ledger.next_seq == went_in + 1
    assert check(path, now_ns=0) == []


def may_mount():
    """Tell whether this user may mount a file system of its own."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.system
@pytest.mark.skipif(not may_mount(), reason="needs a user namespace with mounts of its own (unshare --user --mount)")
def test_a_disk_that_is_really_full(tmp_path):
    """On a full file system evidence makes room, and in the end every record is there."""
    (tmp_path / "disk").mkdir()
    script = f"mount -t tmpfs -o size=12m none {tmp_path}/disk && {sys.executable} {FULL} {tmp_path}/disk"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    *_, room, problems = done.stdout.split()
    assert int(room) > 0
    assert problems == "0"


def test_a_subscriber_registered_on_a_full_disk_is_registered_once(line, path, monkeypatch):
    """A registration whose commit finds no room waits; asking again neither fails for ever nor registers twice."""
    outbox = Outbox(line.ledger)
    commit, calls = line.ledger.commit, iter(["room", "full"])

    def commit_once():
        if next(calls, "room") == "full":
            raise LedgerFull("the disk is full")
        commit()

    monkeypatch.setattr(line.ledger, "commit", commit_once)
    with pytest.raises(LedgerFull):
        outbox.register("mes")
    outbox.register("mes")
    line.parts(2)
    assert outbox.names() == ["mes"]
    assert check(path, now_ns=0) == []


def test_acknowledgements_on_a_full_disk_do_not_pile_up(line):
    """However often a subscriber acknowledges while nothing can be written, one change waits: the furthest."""
    outbox = Outbox(line.ledger)
    outbox.register("mes")
    line.parts(5)
    fill(line)
    waiting = len(line.ledger.journal._changes)
    for seq in (3, 5, 4) * 100:
        outbox.ack("mes", seq)
    assert len(line.ledger.journal._changes) == waiting + 1
    free(line)
    line.ledger.commit()
    assert Outbox(line.ledger).lag("mes").acked == 5
