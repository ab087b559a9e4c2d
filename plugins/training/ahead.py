"""Pictures drawn by threads, those of the next pool while this one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from edgead import DetectorContext

Drawn = TypeVar("Drawn")


class Ahead(Generic[Drawn]):
    """Draws pools of ``count`` pictures: pool n is ``draw(n * count)`` .. ``draw((n + 1) * count - 1)``, in order.

    ``draw`` runs in threads and gives the same picture for the same number whenever it is asked. A context manager:
    leaving it ends the threads and drops what was begun.
    """

    def __init__(self, draw: Callable[[int], Drawn], count: int, context: DetectorContext) -> None:
        self._draw, self._count, self._context = draw, count, context
        # One thread where the processor trains too, more where it only feeds a GPU.
        self._threads = ThreadPoolExecutor(1 if context.device == "cpu" else 8, thread_name_prefix="pictures")
        self._coming: dict[int, list[Future[Drawn]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def pool(self, number: int, *, last: bool) -> Iterator[Drawn]:
        """Return the pictures of pool ``number``; unless it is the ``last``, those of the next one are begun."""
        drawn = self._coming.pop(number, None) or self._begin(number)
        if not last:
            self._coming[number + 1] = self._begin(number + 1)
        return self._told(drawn)

    def _begin(self, number: int) -> list[Future[Drawn]]:
        first = number * self._count
        return [self._threads.submit(self._draw, first + each) for each in range(self._count)]

    def _told(self, drawn: list[Future[Drawn]]) -> Iterator[Drawn]:
        for done, each in enumerate(drawn):
            yield each.result()
            drawn[done] = Future()  # let go of the picture: a pool of them is a gigabyte
            self._context.progress(done + 1, len(drawn), "drawing and encoding training pictures")
