"""One holder at a time: an advisory ``flock`` of an open file, which the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import time

_POLL_S = 0.02


def wait_for_lock(handle: int, timeout_s: float) -> None:
    """Take the lock of an open file descriptor; closing it gives the lock back. Raises ``TimeoutError``."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"held for {timeout_s:g} s") from error
            time.sleep(_POLL_S)
        else:
            return
