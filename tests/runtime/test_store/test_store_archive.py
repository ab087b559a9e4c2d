"""Templates as files: what is exported comes back the same, and no hostile archive writes anything."""

from __future__ import annotations

import gzip
import io
import tarfile

import numpy as np
import pytest

from runtime.errors import TemplateError
from runtime.store import Store


@pytest.fixture
def exported(store, abc, tmp_path):
    """Return the second template as an archive."""
    return store.export(abc[1], tmp_path / "b.tar")


@pytest.fixture
def other(tmp_path):
    """Return another, empty store."""
    return Store.create(tmp_path / "other")


def members(file):
    """Return (header, data) of each member."""
    with tarfile.open(file, "r:") as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]


def write(file, pairs, **options):
    """Write a tar of (header, data) pairs."""
    with tarfile.open(file, "w", **options) as tar:
        for info, data in pairs:
            tar.addfile(info, io.BytesIO(data))
    return file


def renamed(pairs, index, **changes):
    """Return the members with one header changed."""
    out = list(pairs)
    info, data = out[index]
    info = tarfile.TarInfo.frombuf(info.tobuf(), "ascii", "strict")
    for name, value in changes.items():
        setattr(info, name, value)
    out[index] = (info, data)
    return out


def test_export_and_import_keep_every_byte(store, abc, exported, other, tmp_path):
    """A template imported elsewhere has the same id and arrays, is not active, and exports to the same bytes."""
    imported = other.import_(exported, who="ann", why="from the bench")
    assert imported.digest == abc[1]
    assert other.verify() == []
    assert np.array_equal(imported.bank()["embeddings"], store.template(abc[1]).bank()["embeddings"])
    assert not list((other.root / "refs/active").iterdir())
    assert [(e.action, e.who, e.new) for e, _ in other.log("cap", "hetmm")] == [("import", "ann", abc[1])]
    assert other.export(abc[1], tmp_path / "again.tar").read_bytes() == exported.read_bytes()


def test_archive_is_an_ordinary_tar(exported, abc):
    """Standard tools list its three plain members."""
    infos = [info for info, _ in members(exported)]
    assert infos[0].name == f"template/{abc[1]}"
    assert all(info.isreg() and info.mode == 0o444 for info in infos)
    assert len(infos) == 3


def test_import_of_what_is_there_changes_nothing(store, abc, exported):
    """Importing into the store it came from adds neither file nor log entry, and leaves the active template alone."""
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*") if path.is_file()}
    assert store.import_(exported, who="ann").digest == abc[1]
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*") if path.is_file()} == before


def test_export_never_writes_over_a_file(store, abc, exported):
    """An existing file is left as it is."""
    before = exported.read_bytes()
    with pytest.raises(TemplateError, match="expected a new file"):
        store.export(abc[0], exported)
    assert exported.read_bytes() == before


def test_damaged_template_is_not_exported(store, abc, tmp_path):
    """Export proves every byte first and leaves no file behind."""
    path = store._objects.path(store.template(abc[1]).manifest.bank.object)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(TemplateError, match="cannot export"):
        store.export(abc[1], tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_flipped_byte_anywhere_in_an_archive_is_refused(exported, other):
    """No byte of an archive can change without the import being refused and the store left empty."""
    data = bytearray(exported.read_bytes())
    for at in range(0, len(data), 61):
        data[at] ^= 0x10
        exported.write_bytes(data)
        with pytest.raises(TemplateError):
            other.import_(exported, who="test")
        data[at] ^= 0x10
    assert not list(other._objects)
    assert other.listed() == []


def test_archive_cut_anywhere_is_refused(exported, other):
    """A download that stopped is refused at every length that lacks content."""
    data = exported.read_bytes()
    content = len(data.rstrip(b"\0"))
    for length in [*range(0, content, 97), content - 1]:
        exported.write_bytes(data[:length])
        with pytest.raises(TemplateError):
            other.import_(exported, who="test")
    assert not list(other._objects)


HOSTILE = {
    "climbing path": lambda m: renamed(m, 1, name="../../../owned"),
    "absolute path": lambda m: renamed(m, 1, name="/owned.txt"),
    "symbolic link": lambda m: renamed(m, 1, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": lambda m: renamed(m, 1, type=tarfile.LNKTYPE, linkname=m[0][0].name),
    "device": lambda m: renamed(m, 1, type=tarfile.CHRTYPE),
    "fifo": lambda m: renamed(m, 1, type=tarfile.FIFOTYPE),
    "folder": lambda m: renamed(m, 1, type=tarfile.DIRTYPE),
    "sparse file": lambda m: renamed(m, 1, type=tarfile.GNUTYPE_SPARSE),
    "setuid file": lambda m: renamed(m, 1, mode=0o4755),
    "member twice": lambda m: [m[0], m[1], m[1], m[2]],
    "member too many": lambda m: [*m, m[2]],
    "member missing": lambda m: m[:2],
    "wrong order": lambda m: [m[1], m[0], m[2]],
    "manifest twice": lambda m: [m[0], m[0], m[1], m[2]],
    "other object": lambda m: [m[0], (m[1][0], m[1][1][:-1] + b"?"), m[2]],
    "empty": lambda _: [],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_and_writes_nothing(exported, other, name, tmp_path):
    """Path tricks, links, special files, duplicates and surplus members are refused before anything is written."""
    hostile = write(tmp_path / "hostile.tar", HOSTILE[name](members(exported)))
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(TemplateError, match=r"hostile\.tar"):
        other.import_(hostile, who="test")
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_long_name_extension_is_refused(exported, other, tmp_path):
    """An extension header that could rename the next member is not read at all."""
    pairs = renamed(members(exported), 0, name="template/" + "a" * 200)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with pytest.raises(TemplateError, match="expected member template"):
            other.import_(write(tmp_path / "long.tar", pairs, format=form), who="test")


def test_announced_size_is_checked_before_reading(exported, other):
    """A header that announces terabytes costs nothing: the size is held against the file first."""
    data = bytearray(exported.read_bytes())
    data[124:136] = b"77777777777\0"
    exported.write_bytes(data)
    with pytest.raises(TemplateError, match="expected 8589934591 bytes of template/"):
        other.import_(exported, who="test")


def test_compressed_or_foreign_file_is_refused(other, exported, tmp_path):
    """Only the plain tar is read: a zip bomb has no way in."""
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(exported.read_bytes()))
    for file in (packed, tmp_path / "nowhere.tar"):
        with pytest.raises(TemplateError, match=file.name):
            other.import_(file, who="test")
