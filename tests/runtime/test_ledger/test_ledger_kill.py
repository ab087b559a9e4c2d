"""A station killed at any moment leaves a whole ledger and owes nobody anything; readers are never in the way."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.ledger import Reader, check
from runtime.ledger.schema import WAL_BYTES

#: Characters of the digest in a line of what was delivered.
DIGEST = 64
WRITER = Path(__file__).parent / "writer.py"


@pytest.fixture
def station(path, folder, tmp_path):
    """Yield a function that lets a station work for a time, kills it, and returns how it ended."""
    path.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, WRITER, path, folder, tmp_path / "delivered"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def work(seconds):
        print("kill", seconds, file=process.stdin, flush=True)
        return process.stdout.readline().strip()

    yield work
    process.stdin.close()
    process.wait()
    process.stdout.close()


def kill_often(station, path, folder, tmp_path, rounds):
    """Kill a working station at random moments; the ledger is whole after each; return how often it had begun."""
    rng = random.Random(rounds)
    last = 0
    openings = 0
    for _ in range(rounds):
        assert station(rng.uniform(0.001, 0.09)) == "killed"
        if not path.exists():
            continue  # killed before it had begun
        problems = check(path, folder=folder, now_ns=0)
        # Killed before anything was recorded, or between a file of evidence and the record that it went.
        assert [each for each in problems if "found none" not in str(each) and "empty" not in str(each)] == []
        if problems:
            continue
        with Reader(path) as reader:
            _, _, seq, totals = reader.head()
        assert seq >= last, "nothing committed was lost"
        last = seq
        openings = totals["events.opened"]
    assert last > rounds
    # What the killed stations sent: everything, in order, and a repetition byte for byte what it repeats.
    received: dict[int, str] = {}
    for line in (tmp_path / "delivered").read_text().splitlines():
        seq, _, digest = line.partition(" ")
        if len(digest) != DIGEST and "gap" not in digest:
            continue  # torn by the kill: a write that crosses a page of the file is not one step
        assert received.setdefault(int(seq), digest) == digest
        assert "gap" not in digest
    assert sorted(received) == list(range(1, max(received) + 1))
    assert last - 200 < max(received) <= last
    return openings


def test_a_station_killed_at_random_moments(station, path, folder, tmp_path):
    """After each of forty kills everything committed is there and proven, and no result was lost on its way."""
    assert kill_often(station, path, folder, tmp_path, 40) > 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_station_killed_at_a_thousand_random_moments(station, path, folder, tmp_path):
    """The same holds for a thousand kills."""
    assert kill_often(station, path, folder, tmp_path, 1000) > 300


def test_reading_beside_a_running_station(line, path):
    """A process that checks and reads all the time finds a whole ledger each time, and the writer is never held up."""
    code = (
        "import sys; from pathlib import Path; from runtime.ledger import Reader, check\n"
        "seen = []\n"
        "print('begun', flush=True)\n"
        "while sys.argv[2:] and not Path(sys.argv[2]).exists():\n"
        "    problems = check(Path(sys.argv[1]), now_ns=0)\n"
        "    assert problems == [], problems\n"
        "    with Reader(Path(sys.argv[1])) as reader:\n"
        "        seqs = [each.seq for each in reader.inspections()]\n"
        "    assert seqs == list(range(1, len(seqs) + 1))\n"
        "    seen.append(len(seqs))\n"
        "assert seen == sorted(seen)\n"
        "print(len(seen), seen[0], seen[-1])\n"
    )
    end = path.parent / "end"
    with subprocess.Popen([sys.executable, "-c", code, path, end], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "begun\n"
        longest = 0.0
        for _ in range(150):
            begun = time.perf_counter()
            line.parts(2)
            longest = max(longest, time.perf_counter() - begun)
            time.sleep(0.005)
        end.touch()
        turns, first, last = map(int, reader.stdout.readline().split())
    assert reader.returncode == 0
    assert turns > 3
    assert first < last <= 300
    assert longest < 2.0, "a lock held by a reader would have cost the writer its busy timeout of five seconds"


def test_the_log_does_not_grow_for_ever(opened, path):
    """A writer that never pauses begins its write-ahead log anew when it is long, instead of letting it grow."""
    line = opened(checkpoint_s=0.01)
    log = path.with_name(path.name + "-wal")
    written = 0
    longest = 0
    for _ in range(1500):
        before = log.stat().st_size
        line.parts(1)
        longest = max(longest, log.stat().st_size)
        written += max(0, log.stat().st_size - before)
    assert written > WAL_BYTES, "too little was written to see it"
    assert longest < 3 * WAL_BYTES
