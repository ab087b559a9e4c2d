"""Work that would hold the host's loop up (reading banks, syncing files, freeing memory), done by one thread beside it.

Errands are done one after another. What comes of one is handed over in the loop's own thread, by ``take``; ``wake``
tells the loop that there is something to take.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from runtime.errors import EdgeadError

log = logging.getLogger("edgead.host")

#: How long a host that ends waits for errands under way: the store must learn of a swap that was taken back.
PATIENCE_S = 10.0
#: While an errand computes, the loop gets the interpreter back within this time, seconds; Python's own 5 ms are longer
#: than a part takes.
SWITCH_S = 0.0001


class Errands:
    """``wake`` is called from the thread, whenever an errand is done."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._asked: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Callable[[Any], None], Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Have ``work`` done in the thread; then ``done`` gets what it returned, or the ``EdgeadError`` it raised."""
        if self._thread is None:
            sys.setswitchinterval(SWITCH_S)
            # A daemon: an errand stuck in a dead disk must not keep an ended host alive.
            self._thread = threading.Thread(target=self._serve, name="errands", daemon=True)
            self._thread.start()
        self._asked.put((work, done))

    def take(self) -> None:
        """Hand over what is done."""
        while not self._done.empty():
            done, result = self._done.get()
            done(result)

    def close(self) -> None:
        """Wait for what was asked for, ``PATIENCE_S`` at most, and hand it over."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join(PATIENCE_S)
            self._thread = None
        self.take()

    def _serve(self) -> None:
        while (errand := self._asked.get()) is not None:
            work, done = errand
            try:
                result = work()
            except EdgeadError as error:
                result = error
            except Exception as error:  # the thread's top: whoever asked must hear of it, and the next errand be done
                log.exception("an errand failed")
                result = EdgeadError(f"{type(error).__name__}: {error}")
            self._done.put((done, result))
            self._wake()
