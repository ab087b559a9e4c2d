"""The OPC UA server: a flat folder of scalars for each camera, events, and methods; see docs/opcua.md.

The server runs in a thread of its own with an event loop; the feed belongs to the main thread. All nodes of a result
are written without giving up the loop in between, so one Read request never sees two results.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from edgead import Delivered, Feed, Options, Publisher, PublisherContext, Secret
from plugins.publishers.background import in_background

#: How long the main thread waits for a result before it looks at acknowledgements.
_LOOK_S = 0.01


class OpcUaOptions(Options):
    """Options of the OPC UA server."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: every network card."""
    port: Annotated[int, Field(ge=1, le=65535)] = 4840
    """TCP port."""
    security: Literal["sign_and_encrypt", "none"] = "sign_and_encrypt"
    """none: also without encryption, and passwords then cross the network in the clear: for commissioning."""
    users: dict[str, Secret] = Field(default_factory=dict)
    """User name -> its password, `env: NAME` or `file: PATH`."""
    anonymous: bool = False
    """Let clients in that say no name: they may read, and call methods too."""
    trusted: Annotated[Path, Field(strict=False)] | None = None
    """Folder of certificates (.der, .pem) of client applications; null: any application's, with a user's password."""
    certificate: Annotated[Path, Field(strict=False)] | None = None
    """The server's certificate (.der or .pem); null: one is made and kept."""
    key: Annotated[Path, Field(strict=False)] | None = None
    """Its private key (.pem)."""
    acknowledge: bool = False
    """true: a result stands until a client calls AcknowledgeResult with its id; the next is shown only then."""
    session_s: Annotated[float, Field(ge=5, le=3600)] = 60.0
    """Longest a silent session is kept, whatever the client asks for."""

    @model_validator(mode="after")
    def _somebody_may_connect(self) -> Self:
        if not self.users and not self.anonymous:
            raise ValueError("expected `users` or `anonymous: true`: nobody can connect")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected `certificate` and `key` together: one is of no use without the other")
        return self


class OpcUa(Publisher):
    """Results, jobs and recipes over OPC UA."""

    name = "opcua"
    options_model = OpcUaOptions
    modules = ("asyncua",)
    requirement = "edgead[opcua]"

    def run(self, feed: Feed, options: BaseModel, context: PublisherContext) -> None:
        """Serve until told to stop."""
        from plugins.publishers.opcua.server import StationServer

        if not isinstance(options, OpcUaOptions):
            raise TypeError(f"expected OpcUaOptions, found {options!r}")
        done: queue.SimpleQueue[Delivered] = queue.SimpleQueue()
        server = StationServer(options, context, Desk(feed, done))
        where = f"{options.host}:{options.port}"
        with in_background("opcua", where, server.serve, context.stopping) as post:
            beats = -1
            while not context.stopping.is_set():
                delivered = feed.receive(_LOOK_S)
                if delivered is not None:
                    post(server.offer, delivered)
                with contextlib.suppress(queue.Empty):
                    while True:
                        handed = done.get_nowait()
                        feed.done(handed)
                        post(server.settled, handed)
                pulse = context.line.pulse()
                if pulse.beats != beats:
                    beats = pulse.beats
                    context.report(server.figures())


class Desk:
    """Where the server's thread hands results to be remembered as handed over."""

    def __init__(self, feed: Feed, done: queue.SimpleQueue[Delivered]) -> None:
        self.is_done, self.settle = feed.is_done, done.put


class Shelf:
    """What one camera shows, and what waits behind it. ``acknowledge``: each until it is acknowledged."""

    def __init__(self, desk: Desk, *, acknowledge: bool) -> None:
        self.shown: Delivered | None = None
        self._desk, self._acknowledge = desk, acknowledge
        self._waiting: deque[Delivered] = deque()

    @property
    def waiting(self) -> int:
        """Results that wait behind the one shown."""
        return len(self._waiting)

    def offer(self, delivered: Delivered) -> Delivered | None:
        """Take a result; return it if it is to be shown now."""
        if not self._acknowledge:
            self._desk.settle(delivered)
            self.shown = delivered
            return delivered
        self._waiting.append(delivered)
        return self._next()

    def acknowledge(self, result_id: str) -> Any:
        """Return the result of this id if it waits to be remembered, None if it is so; ``ValueError`` if neither."""
        if self.shown is not None and self.shown.inspection.result_id == result_id and self._acknowledge:
            return self.shown
        if self._desk.is_done(result_id):
            return None  # the answer to an earlier call was lost
        raise ValueError(f"expected the result shown, found {result_id[:80]!r}")

    def settled(self, delivered: Delivered) -> Delivered | None:
        """Note that a result is remembered; return the next one if it is to be shown now."""
        if self._acknowledge and self.shown is delivered:
            self.shown = None
            return self._next()
        return None

    def _next(self) -> Delivered | None:
        if self.shown is None and self._waiting:
            self.shown = self._waiting.popleft()
            return self.shown
        return None
