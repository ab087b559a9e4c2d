"""The Modbus TCP server: one unit id for each camera, each with its image and its handshake.

The server runs in a thread of its own with an event loop; handshakes are touched there only. The feed belongs to the
main thread, which never waits for a PLC. Registers are computed when they are read: one read is never torn, and we
write nothing into pymodbus's own storage (in 3.16 its `async_setValues` on a `ModbusServerContext` changes nothing and
says nothing).
"""

from __future__ import annotations

import contextlib
import queue
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

from pydantic import BaseModel, Field

from edgead import Delivered, Feed, Publisher, PublisherContext, StationError
from plugins.publishers.background import in_background
from plugins.publishers.modbus.server import serve
from plugins.publishers.modbus.unit import Unit
from plugins.publishers.options import ListeningOptions, Port, own

#: How long the main thread waits for a result before it looks at acknowledgements: part of every handshake's time.
LOOK_S = 0.005
#: Pause between two reports of figures.
REPORT_S = 1.0


class ModbusOptions(ListeningOptions):
    """Options of the Modbus TCP server."""

    port: Port = 502
    """TCP port; below 1024 the service needs CAP_NET_BIND_SERVICE. Modbus knows no password: keep it on the machine
    network."""
    units: dict[Annotated[int, Field(ge=1, le=247, strict=False)], str] = Field(default_factory=dict)
    """Unit id -> camera. Left out: 1, 2, ... in the order of the station file."""
    handshake: bool = True
    """false: a display. The newest result stands in the image at once, and nobody has to acknowledge anything."""
    buffer: Annotated[int, Field(ge=1, le=100)] = 10
    """Results the PLC may leave waiting with buffering on; more are kept for it, and BUFFER_OVERRUN says so."""
    stale_s: Annotated[float, Field(gt=0)] = 10.0
    """Without buffering, a result from the record that is older than this is not shown: its part has gone."""
    recipes: dict[Annotated[int, Field(ge=1, le=65535, strict=False)], str] = Field(default_factory=dict)
    """Number -> recipe id, as PLCs know recipes by numbers. A recipe whose id is a number has it by itself."""
    connections: Annotated[int, Field(ge=1, le=100)] = 8
    """Connections at a time; one more is closed at once."""
    clients: tuple[str, ...] | None = Field(default=None, strict=False)
    """Addresses that may connect, such as [192.168.1.10]; another is closed at once. null: any. Name the PLC here, so
    that a stranger cannot take all the connections."""
    idle_s: Annotated[float, Field(gt=0)] = 60.0
    """A connection silent for so long is closed: a PLC that lost its power leaves it half open."""


class Modbus(Publisher):
    """Results, triggers and recipes over Modbus TCP."""

    name = "modbus"
    options_model = ModbusOptions
    modules = ("pymodbus",)
    requirement = "edgead[modbus]"

    def run(self, feed: Feed, options: BaseModel, context: PublisherContext) -> None:
        """Serve until told to stop."""
        options = own(options, ModbusOptions)
        done: queue.SimpleQueue[tuple[Unit, Delivered]] = queue.SimpleQueue()
        units = {
            number: Unit(camera, number, options, context, feed, done) for number, camera in units_of(options, context)
        }
        tally: Counter[str] = Counter()
        where = f"{options.host}:{options.port}"
        with in_background("modbus", where, partial(serve, options, units, tally), context.stopping) as post:
            for unit in units.values():
                post(unit.begin)
            by_camera = {unit.camera: unit for unit in units.values()}
            self._feed(feed, context, by_camera, done, post, tally)

    def _feed(  # noqa: PLR0917 - what it moves between
        self,
        feed: Feed,
        context: PublisherContext,
        units: Mapping[str, Unit],
        done: queue.SimpleQueue[tuple[Unit, Delivered]],
        post: Callable[..., None],
        tally: Mapping[str, int],
    ) -> None:
        beats = -1
        while not context.stopping.is_set():
            delivered = feed.receive(LOOK_S)
            if delivered is not None:
                unit = units.get(delivered.inspection.camera)
                if unit is None or unit.is_stale(delivered):
                    feed.done(delivered)
                else:
                    post(unit.offer, delivered)
            with contextlib.suppress(queue.Empty):
                while True:
                    unit, handed = done.get_nowait()
                    feed.done(handed)
                    post(unit.handshake.settled, handed)
            for answer in context.line.answers():
                if answer.camera in units:
                    post(units[answer.camera].handshake.answer, answer.trigger_id, answer.seq, answer.refused)
            pulse = context.line.pulse()
            if pulse.beats != beats:  # at the pace of the host's own loop
                beats = pulse.beats
                context.report({"connections": dict(tally), **{unit.camera: unit.figures() for unit in units.values()}})


def units_of(options: ModbusOptions, context: PublisherContext) -> list[tuple[int, str]]:
    """Return (unit id, camera) of each unit; ``StationError`` for a camera the station has not."""
    units = options.units or dict(enumerate(context.cameras, 1))
    for camera in units.values():
        if camera not in context.cameras:
            known = ", ".join(context.cameras)
            raise StationError(f"publishers.{context.name}.units: expected a camera ({known}), found {camera!r}")
    return list(units.items())
