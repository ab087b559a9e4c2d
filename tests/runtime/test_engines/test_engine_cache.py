"""The cache gives whole engines or says why not: damage, foreign hands, full and read-only disks, several builders."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.engines import cache as cache_module
from runtime.engines.cache import MANIFEST, EngineCache
from runtime.errors import EngineError

KEY, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64


def publish(cache, key=KEY, size=1000):
    """Put an entry of two files into the cache."""
    with cache.builder(key) as folder:
        (folder / "model.so").write_bytes(bytes(range(256)) * (size // 256 + 1))
        (folder / "model.json").write_text("{}")
        return cache.publish(key, folder, {"made": "for a test"})


def test_what_was_published_is_found(cache):
    """An entry comes back with its record and its files, readable and writable by its owner alone."""
    publish(cache)
    entry = cache.find(KEY)
    assert entry.record == {"made": "for a test"}
    assert sorted(path.name for path in entry.folder.iterdir()) == [MANIFEST, "model.json", "model.so"]
    for path in (cache.folder, entry.folder, *entry.folder.iterdir()):
        assert path.stat().st_mode & 0o077 == 0
    assert list(cache.folder.glob("building-*")) == []


def test_what_was_not_built_is_not_found(cache):
    """An empty or missing cache holds nothing, and looking creates nothing."""
    assert cache.find(KEY) is None
    assert cache.entries() == []
    assert not cache.folder.exists()


def test_a_key_is_no_path(cache):
    """What is no key of 64 hexadecimal digits never reaches the file system."""
    with pytest.raises(EngineError, match="expected a key"):
        cache.find("../" + "a" * 61)


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


DAMAGE = {
    "one bit": lambda folder: _flip(folder / "model.so"),
    "truncated": lambda folder: os.truncate(folder / "model.so", 100),
    "empty": lambda folder: os.truncate(folder / "model.so", 0),
    "longer": lambda folder: (folder / "model.so").write_bytes((folder / "model.so").read_bytes() + b"\0"),
    "file missing": lambda folder: (folder / "model.json").unlink(),
    "file too many": lambda folder: (folder / "extra.so").write_bytes(b""),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "manifest cut": lambda folder: os.truncate(folder / MANIFEST, 40),
    "manifest empty": lambda folder: os.truncate(folder / MANIFEST, 0),
    "manifest a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "manifest binary": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\0"),
    "manifest huge": lambda folder: os.truncate(folder / MANIFEST, 1 << 30),
    "foreign version": lambda folder: _edit(folder / MANIFEST, format="edgead.engine/0"),
    "of another key": lambda folder: _edit(folder / MANIFEST, key=OTHER),
    "no files listed": lambda folder: _edit(folder / MANIFEST, files=None),
    "file listed oddly": lambda folder: _edit(folder / MANIFEST, files={"model.so": 1, "model.json": 2}),
    "a link": lambda folder: ((folder / "model.json").unlink(), (folder / "model.json").symlink_to("model.so")),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_told_and_never_loaded(cache, how):
    """However an entry was damaged, finding it is an EngineError that names the place; a new build puts it right."""
    entry = publish(cache)
    DAMAGE[how](entry.folder)
    with pytest.raises(EngineError, match=str(cache.folder)):
        cache.find(KEY)
    publish(cache)
    assert cache.find(KEY).record == {"made": "for a test"}


def test_a_changed_record_is_damage(cache):
    """The manifest's record, which says what inputs the code takes, is proven as its files are."""
    publish(cache)
    manifest = cache.folder / KEY / "manifest.json"
    manifest.write_text(manifest.read_text().replace("for a test", "for a jest"))
    with pytest.raises(EngineError, match="its record is not the one that was written"):
        cache.find(KEY)


def test_a_cache_others_may_write_is_refused(cache):
    """Machine code that another user may have put there is refused: folder, entry and file, group and world."""
    entry = publish(cache)
    for path in (cache.folder, entry.folder, entry.folder / "model.so", entry.folder / MANIFEST):
        before = path.stat().st_mode & 0o777
        for bit in (0o020, 0o002):
            path.chmod(before | bit)
            with pytest.raises(EngineError, match=r"no one but the owner|damaged"):
                cache.find(KEY)
        path.chmod(before)
    assert cache.find(KEY) is not None


def test_a_strangers_cache_is_refused(cache, monkeypatch):
    """A folder that belongs to another user is refused for reading and for building."""
    publish(cache)
    real = os.geteuid()
    monkeypatch.setattr("runtime.engines.folder.os.geteuid", lambda: real + 1)
    if real == 0:  # root's own files are trusted by everybody: give them to somebody
        for path in (cache.folder, *cache.folder.rglob("*")):
            os.chown(path, real + 2, -1)
    with pytest.raises(EngineError, match="belong to user"):
        cache.find(KEY)
    with pytest.raises(EngineError, match="belong to user"):
        publish(cache)


def test_a_cache_behind_a_link_or_in_an_open_folder_is_refused(tmp_path):
    """Neither a symbolic link nor a parent that everybody may write without a sticky bit leads to code that is run."""
    real = EngineCache(tmp_path / "open" / "engines", 1 << 30)
    publish(real)
    link = tmp_path / "link"
    link.symlink_to(real.folder)
    with pytest.raises(EngineError, match="symbolic link"):
        EngineCache(link, 1 << 30).find(KEY)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(EngineError, match="writable by everyone"):
        real.find(KEY)
    with pytest.raises(EngineError, match="writable by everyone"):
        publish(real)
    (tmp_path / "open").chmod(0o1777)
    assert real.find(KEY) is not None


def test_a_killed_builder_leaves_nothing_that_is_found(cache):
    """What was not published is not there; leftovers are swept once they are old."""
    with cache.builder(KEY) as folder:
        (folder / "model.so").write_bytes(b"half")
        assert cache.find(KEY) is None
    assert not folder.exists()
    left = cache.folder / "building-of-the-dead"
    left.mkdir()
    os.utime(left, (0, 0))
    with cache.builder(OTHER):
        assert not left.exists()


class FailingDisk:
    """Makes call number ``step`` of one function find the disk full."""

    def __init__(self, patch, owner, name, step):
        self.calls = 0
        real = getattr(owner, name)

        def call(*arguments, **options):
            self.calls += 1
            if self.calls == step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        patch.setattr(owner, name, call)


@pytest.mark.parametrize(
    ("owner", "name"), [(os, "fsync"), (os, "mkdir"), (os, "open"), (Path, "rename"), (Path, "write_text")]
)
def test_a_full_disk_is_told_and_leaves_the_old_entry_or_none(cache, monkeypatch, owner, name):
    """Whichever call finds the disk full: an EngineError that says so, nothing half, and with room it works."""
    publish(cache, OTHER)
    refused = 0
    for step in range(1, 40):
        with monkeypatch.context() as patch:
            disk = FailingDisk(patch, owner, name, step)
            try:
                publish(cache)
            except EngineError as error:
                refused += "No space left" in str(error)
        assert cache.find(OTHER) is not None
        if disk.calls < step:
            break
        found = cache.find(KEY)  # raises if anything half is there
        assert found is None or found.record
    assert refused
    assert disk.calls < step
    publish(cache)
    assert cache.find(KEY) is not None


def test_a_read_only_cache_is_read(cache, monkeypatch):
    """An engine on a read-only file system is found; building there is an EngineError that says what to set."""
    publish(cache)

    def refused(*_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr("tempfile.mkdtemp", refused)
    assert cache.find(KEY) is not None
    with pytest.raises(EngineError, match=r"Read-only file system; free space, or set worker\.engines"):
        publish(cache, OTHER)


_BUILDER = """
import sys
from pathlib import Path
from runtime.engines.cache import EngineCache
cache = EngineCache(Path(sys.argv[1]), 1 << 30)
with cache.builder(sys.argv[2]) as folder:
    if cache.find(sys.argv[2]) is None:
        (folder / "model.so").write_bytes(bytes(1 << 20))
        cache.publish(sys.argv[2], folder, {"by": sys.argv[3]})
        print("built")
"""


def test_two_builders_build_once(cache):
    """Four processes that want the same engine at once: one builds it, the others find it whole."""
    command = [sys.executable, "-c", _BUILDER, str(cache.folder), KEY]
    running = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(4)]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert said.count("built\n") == 1
    assert cache.find(KEY).record["by"] == str(said.index("built\n"))


def test_a_builder_that_takes_too_long_is_told_of(cache, monkeypatch):
    """Who waits for another builder gives up after a time, naming the lock."""
    monkeypatch.setattr("runtime.engines.cache.LOCK_TIMEOUT_S", 0.2)
    with cache.builder(KEY), pytest.raises(EngineError, match="other builder"), cache.builder(KEY):
        pass
    with cache.builder(KEY):
        pass


def test_the_ones_used_longest_ago_go(cache):
    """Beyond its size the cache forgets what was not used for longest, never the engine just made."""
    for number, key in enumerate((KEY, OTHER, THIRD)):
        publish(cache, key, 10_000)
        os.utime(cache.folder / key, (number + 1, number + 1))
    cache.find(KEY)  # used now
    small = EngineCache(cache.folder, 25_000)
    publish(small, "d" * 64, 10_000)
    assert {key for key, _, _ in small.entries()} == {KEY, "d" * 64}
    tiny = EngineCache(cache.folder, 1)
    publish(tiny, "e" * 64, 10_000)
    assert [key for key, _, _ in tiny.entries()] == ["e" * 64]


def test_finding_counts_as_use(cache):
    """Every find makes an entry the last to go."""
    publish(cache)
    publish(cache, OTHER)
    for key in (KEY, OTHER):
        os.utime(cache.folder / key, (1, 1))
    before = time.time()
    cache.find(KEY)
    assert [key for key, _, _ in cache.entries()] == [OTHER, KEY]
    assert cache.entries()[-1][2] >= before - 1


def test_an_entry_that_goes_while_it_is_read(cache, monkeypatch):
    """An entry another process evicts between two of our looks is damage, not a raw error: who reads can go on."""
    place = publish(cache).folder
    digest = cache_module._sha256

    def evicted(path):
        shutil.rmtree(place)
        return digest(path)

    monkeypatch.setattr(cache_module, "_sha256", evicted)
    with pytest.raises(EngineError, match="is damaged"):
        cache.find(KEY)
    assert cache.find(KEY) is None
