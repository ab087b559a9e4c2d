"""An asyncio server in a thread beside the main one, which owns the feed and never waits for a peer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from edgead import StationError

log = logging.getLogger("edgead.publisher")

#: Serves until the event is set; calls the function once it listens.
Serve = Callable[[Callable[[], None], asyncio.Event], Awaitable[None]]


@contextlib.contextmanager
def in_background(name: str, where: str, serve: Serve, stopping: threading.Event) -> Iterator[Callable[..., Any]]:
    """Run ``serve`` in a thread; lend ``post(function, *arguments)``, which calls in its event loop, soon.

    Raises ``StationError`` if ``where`` cannot be listened on. If the server ends by itself, ``stopping`` is set, and
    what ended it is raised when the context is left.
    """
    loop = asyncio.new_event_loop()
    started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    end = asyncio.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve(lambda: started.put(None), end))
        except Exception as error:  # noqa: BLE001 - whatever it is: the main thread must neither wait nor miss it
            if end.is_set():
                log.warning("%s: %s while it ended", name, error)
            else:
                started.put(error)
        finally:
            stopping.set()
            loop.close()

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        error = started.get()
        if isinstance(error, OSError | RuntimeError):
            raise StationError(f"cannot listen on {where}: {error}; is another server running there?") from error
        if error is not None:
            raise error
        yield loop.call_soon_threadsafe
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(end.set)
        thread.join()
        if not started.empty() and (error := started.get()) is not None:
            raise error
