"""The OPC UA server: a flat folder of scalars for each camera, events, and methods; see docs/opcua.md.

The server runs in a thread of its own with an event loop; the feed belongs to the main thread. All nodes of a result
are written without giving up the loop in between, so one Read request never sees two results.
"""

from __future__ import annotations

import contextlib
import queue
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from edgead import Delivered, Feed, Publisher, PublisherContext, Secret
from plugins.publishers.background import in_background
from plugins.publishers.opcua.nodeset import check_nodeset
from plugins.publishers.options import ListeningOptions, Port, own

#: How long the main thread waits for a result before it looks at acknowledgements.
_LOOK_S = 0.01


class OpcUaOptions(ListeningOptions):
    """Options of the OPC UA server."""

    port: Port = 4840
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
    nodeset: Annotated[Path, Field(strict=False)] | None = None
    """The OPC Foundation's file of the types of OPC 40100-1, Opc.Ua.MachineVision.NodeSet2.xml: with it each camera is
    also a VisionSystem; null: it is not."""
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

    def check(self, options: BaseModel, base: Path) -> None:
        """Look at the NodeSet, if one is named."""
        nodeset = own(options, OpcUaOptions).nodeset
        if nodeset is not None:
            check_nodeset(base / nodeset)

    def run(self, feed: Feed, options: BaseModel, context: PublisherContext) -> None:
        """Serve until told to stop."""
        from plugins.publishers.opcua.camera import Desk
        from plugins.publishers.opcua.server import StationServer

        options = own(options, OpcUaOptions)
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
                for answer in context.line.answers():
                    post(server.answer, answer.camera, answer.trigger_id, answer.seq, answer.refused)
                pulse = context.line.pulse()
                if pulse.beats != beats:
                    beats = pulse.beats
                    context.report(server.figures())
