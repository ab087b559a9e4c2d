"""Results on their way to a broker: each is published until it is acknowledged, in order, and says when it is late."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from edgead import Delivered, Feed
from plugins.publishers.mqtt.connection import Connection

#: Waits, in seconds: for a result while acknowledgements are awaited, and while nothing is on its way.
_BUSY_S, _IDLE_S = 0.002, 0.02


class Window:
    """What is published over ``connection`` from ``feed``. ``send(delivered, historical)`` publishes one result."""

    def __init__(self, feed: Feed, connection: Connection, send: Callable[[Delivered, bool], None]) -> None:
        self.delivered = self.late = 0
        self._feed, self._connection, self._send = feed, connection, send
        self._again: deque[Delivered] = deque()

    def turn(self) -> None:
        """Take acknowledgements, send again what a broken connection lost, then what is new."""
        connection = self._connection
        while connection.acknowledged:
            token = connection.acknowledged.popleft()
            if isinstance(token, Delivered):
                self._feed.done(token)
                self.delivered += 1
        if connection.lost:
            # In the order of their numbers: a connection can break again while they are sent again.
            lost = [each for each in connection.lost if isinstance(each, Delivered)]
            connection.lost.clear()
            self._again = deque(
                sorted({each.seq: each for each in [*lost, *self._again]}.values(), key=lambda e: e.seq)
            )
        while self._again and connection.has_room:
            self._publish(self._again.popleft(), historical=True)
        if not self._again and connection.has_room:
            delivered = self._feed.receive(_BUSY_S if connection.on_way else _IDLE_S)
            if delivered is not None:
                # What was published before there was this connection has waited for it.
                late = delivered.inspection.published_ns < connection.since_ns
                self._publish(delivered, historical=delivered.historical or late)

    def figures(self) -> dict[str, Any]:
        """Return what `edgead status` shows of connection and results."""
        connection = self._connection
        return {
            "connected": connection.connected, "connects": connection.connects, "delivered": self.delivered,
            "late": self.late, "last_error": connection.last_error,
        }  # fmt: skip

    def _publish(self, delivered: Delivered, *, historical: bool) -> None:
        self.late += historical
        self._send(delivered, historical)
