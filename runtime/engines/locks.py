"""Who builds what: one lock file a key, gone when nobody builds.

A lock is the kernel's and goes with its holder; the file is what it is taken on. Its holder removes the file before
letting go, so whoever has waited holds the lock of a file that is nobody's any more: he sees that, and takes it anew.
Files of holders that were killed are swept by the same rule: only by who holds their lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.disk.filelock import wait_for_lock

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def held(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock file ``path``; it is there meanwhile, and gone afterwards.

    Raises ``TimeoutError`` where another holds it for longer, ``OSError`` where it cannot be made.
    """
    handle = _take(path, time.monotonic() + timeout_s)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the lock files in ``folder`` that nobody holds."""
    for path in folder.iterdir():
        with suppress(OSError):  # removed while we looked, or held
            handle = os.open(path, _FLAGS)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(handle, path):
                    path.unlink()
            finally:
                os.close(handle)


def _take(path: Path, deadline: float) -> int:
    while True:
        handle = os.open(path, _FLAGS | os.O_CREAT, 0o600)
        try:
            wait_for_lock(handle, deadline - time.monotonic())
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Tell whether an open file is still the one at ``path``."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)
