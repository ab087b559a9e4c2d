"""A station killed while it changes its template: store and ledger open whole, with the old template or the new one."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from runtime.ledger import Reader, check
from runtime.store import Store

pytestmark = pytest.mark.system
HERE = Path(__file__).parent
PRODUCT, DETECTOR = "cap", "hetmm"


@pytest.fixture
def digests(tmp_path):
    """Return the ids of three templates in a store, the first one active."""
    place = HERE.parent / "runtime" / "test_store" / "sample.py"
    spec = util.spec_from_file_location("switching_sample", place)
    sample = util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    store = Store.create(tmp_path / "store")
    found = [sample.put(store, number, PRODUCT, DETECTOR).digest for number in range(3)]
    store.activate(found[0], who="test")
    return found


@pytest.fixture
def station(tmp_path, digests):
    """Yield a function that kills the station so long after it began to open or to work; returns how it ended."""
    program = [sys.executable, HERE / "switching_writer.py", tmp_path / "store", tmp_path / "ledger.db"]
    process = subprocess.Popen(
        [*program, tmp_path / "evidence", *digests],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # one thread in the process that forks
    )

    def work(moment, seconds):
        print(moment, seconds, file=process.stdin, flush=True)
        return process.stdout.readline().strip()

    yield work
    process.stdin.close()
    process.wait()
    process.stdout.close()


def active_template(root, digests):
    """Return every template that was active, the last one is; every byte of the store is proven, and its log."""
    store = Store(root)
    assert [each for each in store.verify() if not each.what.startswith("torn last line")] == []
    active = store.active(PRODUCT, DETECTOR)
    assert active.digest in digests
    assert active.bank()["embeddings"].shape == (5, 4)
    moves = [entry for entry, ok in store.log(PRODUCT, DETECTOR) if ok and entry.action == "activate"]
    assert moves[-1].new == active.digest
    assert all(before.new == after.old for before, after in itertools.pairwise(moves))
    return [entry.new for entry in moves]


def kill_often(station, folder, digests, rounds):
    """Kill the station at random moments and prove store and ledger after each; return (templates seen, results)."""
    rng, seen, last = random.Random(rounds), set(), 0
    for _ in range(rounds):
        moment, most_s = rng.choice([("opening", 0.3), ("working", 0.1), ("working", 0.1)])
        assert station(moment, rng.uniform(0.0, most_s)) == "killed"
        moves = active_template(folder / "store", digests)
        seen.add(moves[-1])
        if not (folder / "ledger.db").exists():
            continue  # killed before it had begun
        problems = check(folder / "ledger.db", folder=folder / "evidence", now_ns=0)
        # Killed before anything was recorded, or between a file of evidence and the record that it went.
        assert [each for each in problems if "found none" not in str(each) and "no file" not in str(each)
                and "empty" not in str(each)] == []  # fmt: skip
        if problems:
            continue
        with Reader(folder / "ledger.db") as reader:
            _, _, seq, totals = reader.head()
            swaps = [each.detail["template"] for each in reader.events(kind="swap")]
        assert seq >= last, "nothing committed was lost"
        last = seq
        assert totals["triggers"] - totals["inspections"] <= 1
        assert not swaps or swaps[-1] in moves, "what the record says was swapped to, was active"
    return seen, last


@pytest.mark.timeout(180)
def test_killed_while_it_changes_its_template(station, tmp_path, digests):
    """After each of fifty kills the store has one whole template, and the ledger every result up to the last commit."""
    seen, results = kill_often(station, tmp_path, digests, 50)
    assert len(seen) > 1
    assert results > 10


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.timeout(3600)
def test_killed_a_thousand_times_while_it_changes_its_template(station, tmp_path, digests):
    """The same holds for a thousand kills."""
    seen, results = kill_often(station, tmp_path, digests, 1000)
    assert seen == set(digests)
    assert results > 1000
