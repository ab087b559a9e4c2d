"""A line at a steady rate: one part every so often, whatever happens, and every inspection of them kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

import numpy as np

from runtime.client.subscriber import Subscriber
from runtime.inspection import Inspection
from runtime.testing.station import HandCamera, LocalStation

#: How long a result may take after the last part was sent.
LAST_S = 60.0


class PacedLine:
    """Sends parts ``rate`` times a second from a thread of its own while the block runs; use as a context manager.

    ``draw(number)`` returns the frame of a part, uint8 [H, W] or [H, W, 3]. At the end ``sent`` parts were sent,
    ``receipts`` came back and ``inspections`` were published.
    """

    def __init__(self, station: LocalStation, rate: float, draw: Callable[[int], np.ndarray]) -> None:
        self.sent = self.receipts = 0
        self.inspections: list[Inspection] = []
        self._pause_s = 1 / rate
        self._draw = draw
        self._camera = HandCamera(station.station.frames)
        self._subscriber = Subscriber(station.station.results)
        station.wait(lambda status: status["subscriptions"] == 1)
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._camera.__exit__()
        self._subscriber.close()

    def _send(self) -> None:
        due = time.monotonic()
        while not self._is_over.wait(max(0.0, due - time.monotonic())):
            self._camera.send(self._draw(self.sent))
            self.sent += 1
            due += self._pause_s  # a part that was sent late does not shift the others
            while self._camera.has_receipt():
                self._camera.receipt()
                self.receipts += 1
        while self.receipts < self.sent:
            self._camera.receipt(LAST_S)
            self.receipts += 1

    def _receive(self) -> None:
        give_up = None
        while not self._is_over.is_set() or len(self.inspections) < self.sent:
            received = self._subscriber.receive(100)
            if received is not None:
                self.inspections.append(received.inspection)
            elif self._is_over.is_set():
                give_up = give_up or time.monotonic() + LAST_S
                if time.monotonic() > give_up:
                    return


def percentile_ms(inspections: list[Inspection], percent: float) -> float:
    """Return a percentile (nearest rank) of latencies, arrival to publication, in milliseconds."""
    ordered = sorted(each.latency_us for each in inspections)
    return ordered[max(0, int(-(-len(ordered) * percent // 100)) - 1)] / 1000
