"""A store whose writer is killed, or that two processes change at once: the old state or the new one, nothing else."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime.store import Store

WRITER = Path(__file__).parent / "writer.py"


class Writer:
    """The process of writer.py."""

    def __init__(self, root):
        self.process = subprocess.Popen(
            [sys.executable, WRITER, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # One thread in the process that forks.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, *words):
        """Send one command and return the answer."""
        print(*words, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def writer(store):
    """Yield a writer of the store."""
    made = Writer(store.root)
    yield made
    made.close()


def assert_whole(root, allowed):
    """Assert that a killed writer left a store that is complete, and return its active id."""
    store = Store(root)
    assert [each for each in store.verify() if not each.what.startswith("torn last line")] == []
    active = store.active("cap", "hetmm")
    assert active.digest in allowed
    assert active.bank()["embeddings"].shape == (5, 4)
    moves = [entry for entry, ok in store.log("cap", "hetmm") if ok and entry.action in {"activate", "rollback"}]
    assert moves[-1].new == active.digest
    assert all(before.new == after.old for before, after in itertools.pairwise(moves))
    return active.digest


@pytest.mark.parametrize("action", ["activate", "rollback", "create", "import"])
def test_writer_killed_at_each_step_leaves_old_or_new(abc, writer, action, tmp_path, sample):
    """Killed before any one of its system calls, a writer leaves the old state or the new one."""
    store = Store(tmp_path / "store")
    a, b, c = abc
    store.activate(b, who="test")
    fresh = Store.create(tmp_path / "fresh")
    file = fresh.export(sample.put(fresh, 77).digest, tmp_path / "new.tar")
    argument = {"activate": c, "rollback": "-", "create": "88", "import": file}[action]
    new = {"activate": c, "rollback": a}.get(action, b)
    listed = set(store.listed())
    seen = []
    for step in range(1, 200):
        answer = writer.ask("step", action, argument, step)
        active = assert_whole(store.root, {b, new})
        assert listed <= set(store.listed())
        seen.append((active, len(store.listed())))
        if answer != "killed":
            assert answer == "exit 0"
            break
        if active != b:  # the move happened before the kill: back to the start for the next step
            store.activate(b, who="test")
    assert not list((store.root / "tmp").iterdir()), "what killed writers left unfinished is swept by the next"
    assert len(seen) > 8, "the writer was not killed at a step worth the name"
    assert seen[0] == (b, 3)
    assert seen[-1] == (new, 3 if action in {"activate", "rollback"} else 4)
    # What is created and imported here has a pool, the third object: its steps were among those killed at.
    pools = [template.pool()["all"].shape for template in store.templates() if template.manifest.pool]
    assert pools == ([] if action in {"activate", "rollback"} else [(9, 4)])


def test_creation_of_a_store_killed_at_each_step_can_be_repeated(writer, tmp_path):
    """Whatever a killed creation left behind, creating again gives an empty, sound store."""
    for step in range(1, 100):
        root = tmp_path / f"founded-{step}"
        if writer.ask("step", "found", root, step) != "killed":
            break
        assert Store.create(root).verify() == []
    assert step > 10
    assert Store(root).verify() == []


def kill_at_random(store, abc, writer, rounds):
    """Kill a busy writer at random moments; after each the store is whole and can be moved on."""
    rng = random.Random(rounds)
    seen = set()
    for _ in range(rounds):
        assert writer.ask("loop", rng.uniform(0.005, 0.08), *abc) == "killed"
        known = {digest for _, digest in store.listed()}
        seen.add(assert_whole(store.root, known))
        back = store.rollback("cap", "hetmm", who="test").new
        assert assert_whole(store.root, known) == back
        # Twice, so that there is a way back even if the next writer dies before its first move.
        store.activate(abc[1], who="test")
        store.activate(abc[0], who="test")
    assert store.verify() == []
    return seen


def test_writer_killed_at_random_moments(store, abc, writer):
    """After each of thirty kills the store is whole, its log fits its ref, and rollback and activation work."""
    store.activate(abc[1], who="test")
    assert len(kill_at_random(store, abc, writer, 30)) > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_writer_killed_at_random_moments_often(store, abc, writer):
    """The same holds for three hundred kills."""
    store.activate(abc[1], who="test")
    assert len(kill_at_random(store, abc, writer, 300)) > 1


def test_two_processes_activating_at_once_take_turns(store, abc):
    """Two writers never fail, never interleave: every logged move starts where the one before ended."""
    pair = [Writer(store.root), Writer(store.root)]
    answers = []
    threads = [
        threading.Thread(target=lambda w=writer, o=order: answers.append(w.ask("race", *o)))
        for writer, order in zip(pair, (abc, abc[::-1]), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in pair:
        writer.close()
    assert answers == ["exit 0", "exit 0"]
    assert_whole(store.root, set(abc))
    moves = [entry for entry, ok in store.log("cap", "hetmm") if entry.action == "activate" and ok]
    assert len(moves) == sum(entry.action == "activate" for entry, _ in store.log("cap", "hetmm"))
    assert len(moves) > 45


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become another user; test_store_faults.py serves everyone else"
)
def test_another_user_reads_and_does_not_write(store, abc, writer):
    """Whoever does not own the store reads it all, and is told whose job writing is."""
    assert writer.ask("nobody", abc[1]) == "exit 0"
    assert store.active("cap", "hetmm").digest == abc[0]


def test_reader_sees_old_or_new_while_a_writer_works(store, abc, writer):
    """A reader without lock reads a complete template at every moment."""
    thread = threading.Thread(target=writer.ask, args=("race", *abc))
    thread.start()
    seen = set()
    while thread.is_alive():
        template = Store(store.root).active("cap", "hetmm")
        assert template.bank()["embeddings"].shape == (5, 4)
        seen.add(template.digest)
    thread.join()
    assert seen == set(abc)
