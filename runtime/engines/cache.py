"""Compiled engines on disk: one folder per key, proven byte for byte before anything of it is loaded.

    <cache>/<key>/manifest.json    what it is, and the sha256 of its record and of every other file
    <cache>/<key>/...              the backend's files
    <cache>/approved/              see ``runtime.engines.approvals``
    <cache>/locks/<key>            who builds: an advisory lock the kernel drops with its holder (``locks``)
    <cache>/building-.../          unfinished; leftovers of builders that died are swept when the next one begins

An entry appears by one rename and is never changed afterwards, so two builders, or a builder that is killed, leave a
whole entry or none. What does not verify is damaged: it is removed and built anew by whoever may write here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.engines.folder import check_owner, check_parents, make_folder
from runtime.engines.locks import held, sweep
from runtime.engines.target import FORMAT, digest_of
from runtime.errors import EngineError

MANIFEST = "manifest.json"
#: A manifest is a few kilobytes; more is no manifest.
MOST_MANIFEST_BYTES = 1 << 20
#: Compiling a large graph takes minutes on a small machine, and another process may be at it.
LOCK_TIMEOUT_S = 1800.0
#: An unfinished folder this old belongs to a builder that died.
STALE_S = 24 * 3600.0
_KEY_DIGITS = 64


@dataclass(frozen=True)
class Entry:
    """A verified engine: its folder, and the manifest's ``record`` as it was published."""

    key: str
    folder: Path
    record: Mapping[str, Any]


class EngineCache:
    """The engines in ``folder``; those used last are kept up to ``most_bytes`` together."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    def find(self, key: str) -> Entry | None:
        """Return the entry of ``key``, every byte verified, or None where there is none.

        Raises ``EngineError`` when it is damaged, or when somebody else may have written it.
        """
        place = self._place(key)
        if not place.is_dir():
            return None
        for path in (self.folder, place):
            check_owner(path)
        check_parents(self.folder)
        try:
            record = self._verify(key, place)
        except OSError as error:  # another process evicts or replaces it while we read
            raise _damaged(place, str(error)) from error
        with suppress(OSError):  # a cache on a read-only file system is read all the same
            os.utime(place)
        return Entry(key, place, record)

    @contextmanager
    def builder(self, key: str) -> Iterator[Path]:
        """Lend an empty folder to build ``key`` in, while no other process builds it; gone afterwards.

        Raises ``EngineError`` where the cache cannot be written, or the other builder is not done in time.
        """
        self.make()
        with self._lock(key):
            self._sweep()
            with _told("begin an engine in", self.folder):
                unfinished = Path(tempfile.mkdtemp(prefix="building-", dir=self.folder))
            try:
                with _told("build in", unfinished):
                    yield unfinished
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)

    def publish(self, key: str, files: Path, record: Mapping[str, Any]) -> Entry:
        """Make everything in the folder ``files`` (the builder's, files only) the entry of ``key``, and return it.

        ``record``: JSON object for the manifest. An entry already there is replaced: the caller found it damaged, or
        holds the lock. Raises ``EngineError``; then nothing has changed, unless the old entry was removed.
        """
        place = self._place(key)
        with _told("write", place):
            named = sorted(path for path in files.iterdir() if path.name != MANIFEST)
            listed = {path.name: {"sha256": _sha256(path), "size": path.stat().st_size} for path in named}
            manifest = {"format": FORMAT, "key": key, "record": dict(record), "files": listed}
            manifest["record_sha256"] = digest_of(manifest["record"])
            (files / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
            for path in (*named, files / MANIFEST):
                path.chmod(0o600)
                _sync(path)
            _sync(files)
            self.remove(key)
            files.rename(place)
            _sync(self.folder)
        self._evict(key)
        return Entry(key, place, record)

    def remove(self, key: str) -> None:
        """Remove an entry, if it is there; ``EngineError`` where that is refused."""
        place = self._place(key)
        if place.exists():
            with _told("remove", place):
                gone = Path(tempfile.mkdtemp(prefix="building-", dir=self.folder))
                place.rename(gone / "removed")  # out of sight in one step: nobody finds half an entry
            shutil.rmtree(gone, ignore_errors=True)

    def entries(self) -> list[tuple[str, int, float]]:
        """Return (key, bytes, time of last use as of ``time.time``) of every entry, least recently used first."""
        found = []
        for place in self._places():
            with suppress(OSError):  # removed while we looked
                size = sum(path.stat().st_size for path in place.iterdir())
                found.append((place.name, size, place.stat().st_mtime))
        return sorted(found, key=lambda each: each[2])

    def make(self) -> None:
        """Create the cache's folders where they are missing, and refuse a cache that others may write."""
        for folder in (self.folder, self.folder / "locks"):
            make_folder(folder)
            check_owner(folder)
        check_parents(self.folder)

    def has(self, key: str) -> bool:
        """Tell whether there is an entry of ``key``, whole or not."""
        return self._place(key).is_dir()

    def _place(self, key: str) -> Path:
        if not is_key(key):
            raise EngineError(f"engine cache: expected a key of {_KEY_DIGITS} hexadecimal digits, found {key[:80]!r}")
        return self.folder / key

    def _places(self) -> list[Path]:
        with suppress(OSError):
            return [path for path in self.folder.iterdir() if len(path.name) == _KEY_DIGITS and path.is_dir()]
        return []

    def _verify(self, key: str, place: Path) -> Mapping[str, Any]:
        manifest = _read_manifest(place / MANIFEST)
        if manifest.get("format") != FORMAT or manifest.get("key") != key:
            raise _damaged(place, f"its manifest is of {manifest.get('format')!r} for key {manifest.get('key')!r}")
        files, record = manifest.get("files"), manifest.get("record")
        if not isinstance(files, dict) or not isinstance(record, dict):
            raise _damaged(place, "its manifest lists no files")
        if manifest.get("record_sha256") != digest_of(record):
            raise _damaged(place, "its record is not the one that was written")
        found = {path.name for path in place.iterdir()} - {MANIFEST}
        if found != files.keys():
            raise _damaged(place, f"expected files {sorted(files)}, found {sorted(found)}")
        for name, listed in files.items():
            path = place / name
            check_owner(path)
            if not isinstance(listed, dict) or path.stat().st_size != listed.get("size"):
                raise _damaged(path, f"expected {listed!r}, found {path.stat().st_size} bytes")
            if _sha256(path) != listed.get("sha256"):
                raise _damaged(path, "its bytes are not those that were written")
        return record

    def _sweep(self) -> None:
        """Remove what builders that died have left."""
        sweep(self.folder / "locks")
        for path in self.folder.glob("building-*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    shutil.rmtree(path, ignore_errors=True)

    def _evict(self, keep: str) -> None:
        """Remove the entries used longest ago until the rest fits; the one just made stays whatever its size."""
        listed = self.entries()
        total = sum(size for _, size, _ in listed)
        for key, size, _ in listed:
            if total <= self.most_bytes:
                return
            if key != keep:
                with suppress(EngineError):
                    self.remove(key)
                    total -= size

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        path = self.folder / "locks" / key
        with ExitStack() as stack:
            with _told("lock", path):
                try:
                    stack.enter_context(held(path, LOCK_TIMEOUT_S))
                except TimeoutError as error:
                    raise EngineError(
                        f"engine cache: expected the other builder of {key[:12]} to be done within "
                        f"{LOCK_TIMEOUT_S:g} s; see who it is with 'fuser {path}' and repeat"
                    ) from error
            yield


def is_key(text: str) -> bool:
    """Tell whether ``text`` is spelt as a key: 64 hexadecimal digits, lower case."""
    return len(text) == _KEY_DIGITS and set(text) <= set("0123456789abcdef")


@contextmanager
def _told(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` raised inside into an ``EngineError``: what was attempted, where, why not, what to do."""
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"engine cache: cannot {action} {path}: {error.strerror or error}; free space, or set worker.engines in "
            "the station file to a folder this user may write"
        ) from error


def _damaged(path: Path, what: str) -> EngineError:
    return EngineError(f"engine cache: {path} is damaged: {what}; `edgead build` makes it anew")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        check_owner(path)
        if path.stat().st_size > MOST_MANIFEST_BYTES:
            raise _damaged(path, "it is too large for a manifest")
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(manifest, dict):
        raise _damaged(path, "it is no JSON object")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
