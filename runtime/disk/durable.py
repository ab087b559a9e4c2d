"""Changing files so that a crash, a full disk or a pulled plug leaves the old content or the new one, never a mixture.

A file is written beside its place on the same file system, synced, renamed, and its folder synced. Everything goes
through ``os.open``, ``os.write``, ``os.fsync`` and ``os.replace``: the tests make each of them fail, and kill the
process at each, in turn. Every ``OSError`` leaves here as ``TemplateError``.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from runtime.disk.filelock import wait_for_lock
from runtime.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Seconds a writer waits for another one. A gigabyte bank on slow eMMC takes half a minute to sync.
LOCK_TIMEOUT_S = 120.0

_ADVICE = {
    errno.ENOSPC: "free some space and repeat",
    errno.EDQUOT: "free some space and repeat",
    errno.EROFS: "the file system is mounted read-only: remount it writable",
    errno.EACCES: "run as the user the store belongs to",
    errno.EPERM: "run as the user the store belongs to",
    errno.EIO: "the disk reports a fault: check it, restore from an export if it is failing",
}


@contextmanager
def translated(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` raised inside into a ``TemplateError``: what was attempted, where, why not, what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "check the path and the disk")
        raise TemplateError(f"cannot {action} {path}: {error.strerror or error}; {advice}") from error


def write_file(path: Path, data: bytes | bytearray, staging: Path, *, mode: int = 0o644) -> None:
    """Make ``path`` hold ``data``, durably, in one step.

    ``staging``: a folder on the same file system, for the unfinished file.

    Raises ``TemplateError``; then ``path`` is as it was, unless the very last step failed (the folder's sync after the
    rename).
    """
    unfinished = staging / f".edgead-{secrets.token_hex(8)}"
    with translated("write", path):
        try:
            handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(unfinished, path)  # noqa: PTH105 -- named by the docstring: one of the four calls
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise
        sync_folder(path.parent)


def write_all(handle: int, data: bytes | bytearray) -> None:
    """Write every byte; ``os.write`` may take fewer than asked (Linux: at most 2 GiB a call)."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its missing parents (mode 0755 less the umask), each durably.

    A folder already there is synced again: the process that made it may have died before its own sync.
    """
    with translated("create folder", folder):
        missing = [folder]
        while not missing[-1].parent.is_dir():
            missing.append(missing[-1].parent)
        for each in reversed(missing):
            each.mkdir(mode=0o755, exist_ok=True)
            sync_folder(each.parent)


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the one writer's lock: an advisory ``flock``, which the kernel drops when its holder dies, however it dies.

    Raises ``TemplateError`` after ``LOCK_TIMEOUT_S`` seconds.
    """
    with translated("open for writing", path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            wait_for_lock(handle, LOCK_TIMEOUT_S)
        except TimeoutError as error:
            raise TemplateError(
                f"expected the writer lock {path} to be free within {LOCK_TIMEOUT_S:g} s, found it held; "
                f"see who holds it with 'fuser {path}' and repeat when that process has ended"
            ) from error
        yield
    finally:
        os.close(handle)
