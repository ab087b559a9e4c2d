"""A store whose disk is full, read-only or busy: a clear error, the old state, and the same action works afterwards."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runtime.disk import durable
from runtime.errors import TemplateError
from runtime.store import Store

ACTIONS = ("activate", "first activation", "rollback", "create")


class FailingDisk:
    """Makes call number ``step`` of one of os's functions fail, once, counting only calls that can run out of room."""

    def __init__(self, monkeypatch, name, step, code):
        self.calls = 0
        self.failed = False
        real = getattr(os, name)

        def failing(*arguments, **options):
            if name == "open" and not arguments[1] & (os.O_CREAT | os.O_DIRECTORY):
                return real(*arguments, **options)
            if name == "mkdir" and os.path.exists(arguments[0]):  # noqa: PTH110 -- pathlib would count itself
                return real(*arguments, **options)
            self.calls += 1
            if self.calls == step:
                self.failed = True
                if name == "write":  # a full disk takes half of it first
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize(
    "fault",
    [(action, name) for action in ACTIONS for name in ("open", "write", "fsync", "replace")]
    + [("first activation", "mkdir"), ("create", "mkdir")],
)
def test_full_disk_at_each_step_leaves_the_old_state(store, abc, monkeypatch, fault, sample):
    """When any one call finds the disk full the error says so, nothing moved, and with room the same action works."""
    action, name = fault
    a, b, c = abc
    store.activate(b, who="test")
    first = sample.put(store, 5, product="lid").digest
    actions = {
        "activate": lambda: store.activate(c, who="test"),
        "first activation": lambda: store.activate(first, who="test"),
        "rollback": lambda: store.rollback("cap", "hetmm", who="test"),
        "create": lambda: sample.put(store, 88, product="new"),
    }

    def state():
        refs = {path: path.read_bytes() for path in (store.root / "refs").rglob("*") if path.is_file()}
        return refs, store.log("cap", "hetmm")

    before = state()
    for step in range(1, 100):
        with monkeypatch.context() as patch:
            disk = FailingDisk(patch, name, step, errno.ENOSPC)
            try:
                actions[action]()
            except TemplateError as error:
                message = str(error)
            else:
                break
        assert disk.failed
        assert "No space left on device" in message
        assert "free some space" in message
        assert state()[0] == before[0]
        assert [entry for entry, ok in state()[1] if ok] == [entry for entry, ok in before[1] if ok]
        assert store.verify() == []
    assert not disk.failed, "the failure was swallowed"
    assert step > 1
    assert store.verify() == []
    expected = {"activate": c, "rollback": a}.get(action, b)
    assert store.active("cap", "hetmm").digest == expected
    assert not list((store.root / "tmp").iterdir())


def test_writer_that_never_ends_is_named(store, abc, monkeypatch):
    """A lock that stays held is an error that says how to find its holder, not a wait without end."""
    monkeypatch.setattr(durable, "LOCK_TIMEOUT_S", 0.1)
    with durable.writer_lock(store.root / "lock"), pytest.raises(TemplateError, match="fuser"):
        store.activate(abc[1], who="test")
    assert store.activate(abc[1], who="test").changed


@pytest.fixture
def steps(store, monkeypatch):
    """Every write, fsync and rename in the store from now on, as (call, path in the store)."""
    seen = []

    def traced(name):
        real = getattr(os, name)

        def tracing(first, *rest):
            path = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else os.fspath(rest[0])
            seen.append((name, os.path.relpath(path, store.root).partition(".edgead-")[0]))
            return real(first, *rest)

        monkeypatch.setattr(os, name, tracing)

    for name in ("write", "fsync", "replace"):
        traced(name)
    return seen


def test_log_is_synced_before_the_ref_moves(store, abc, steps):
    """An activation syncs its log entry, then the unfinished ref, renames it, and syncs the folder: in this order."""
    store.activate(abc[1], who="test")
    assert steps == [
        ("fsync", "log"),
        ("write", "log/cap/hetmm.jsonl"),
        ("fsync", "log/cap/hetmm.jsonl"),
        ("fsync", "log/cap"),
        ("fsync", "refs/active"),
        ("write", "tmp/"),
        ("fsync", "tmp/"),
        ("replace", "refs/active/cap/hetmm"),
        ("fsync", "refs/active/cap"),
    ]


@pytest.mark.parametrize("number", [1, 60])
def test_objects_are_synced_before_what_names_them(store, steps, sample, number):
    """A new template writes bank, golden frames, pool if any, manifest, log, listing, each synced before the next."""
    template = sample.put(store, number)
    manifest = template.manifest
    assert (manifest.pool is not None) is (number >= sample.POOLED)
    objects = [manifest.bank.object, manifest.golden.object, *([manifest.pool.object] if manifest.pool else [])]
    names = (*objects, template.digest)
    files = [f"objects/{name[:2]}/{name[2:]}" for name in names]
    placed = [path for call, path in steps if call == "replace" or (call == "write" and path != "tmp/")]
    assert placed == [*files, "log/cap/hetmm.jsonl", f"refs/templates/cap/{template.digest}"]
    for at, step in enumerate(steps):
        if step[0] == "replace":
            assert steps[at - 1] == ("fsync", "tmp/")
            assert steps[at + 1] == ("fsync", step[1].rpartition("/")[0])


def test_read_only_store_is_read_and_says_why_it_is_not_written(store, abc, monkeypatch):
    """On a read-only file system everything can be read, and writing names the file and the remedy."""
    real = os.open

    def read_only(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    assert Store.create(store.root).active("cap", "hetmm").bank()
    assert store.verify() == []
    with pytest.raises(TemplateError, match=r"lock: Read-only file system; .*remount it writable"):
        store.activate(abc[1], who="test")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; test_store_kill.py becomes another user")
def test_store_of_another_user_is_read_and_not_written(store, abc):
    """Without write permission everything can be read, and writing says whose job it is."""
    (store.root / "lock").chmod(0o444)
    assert Store(store.root).active("cap", "hetmm").digest == abc[0]
    with pytest.raises(TemplateError, match="run as the user the store belongs to"):
        store.activate(abc[1], who="test")
