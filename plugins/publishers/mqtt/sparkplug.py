"""A Sparkplug B edge node: the station is the node, each camera a device; see docs/mqtt.md.

DDATA are QoS 0, as Sparkplug wants them, so no acknowledgement tells that they arrived. Behind each goes a small QoS 1
message, the marker: a broker takes the packets of a connection in order, so its acknowledgement is the DDATA's.
What was not acknowledged is sent again on the next connection, with is_historical.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgead import RESULT_FIELDS, Delivered, EdgeadError, Feed, Publisher, PublisherContext, result_values
from plugins.publishers.mqtt.connection import BrokerOptions, Connection, Message
from plugins.publishers.mqtt.sparkplug_payload import DataType, Metric, decode, encode
from plugins.publishers.mqtt.window import Window
from plugins.publishers.options import Level, own

_KINDS = {"uint": DataType.UINT64, "float": DataType.DOUBLE, "text": DataType.STRING, "bool": DataType.BOOLEAN}
_REBIRTH, _BDSEQ = "Node Control/Rebirth", "bdSeq"
#: Node metrics: what the inspection loop says of itself.
_STATE, _CHECKSUM = "Station/State", "Station/ConfigCrc32"
_SEQS = 256
_LOOK_S, _AWAY_S = 0.25, 0.05


class SparkplugOptions(BrokerOptions):
    """Options of the Sparkplug B edge node."""

    group: Level = "edgead"
    """Sparkplug group id."""
    node: Level | None = None
    """Edge node id; null: the station's name."""


class Sparkplug(Publisher):
    """Results as a Sparkplug B edge node."""

    name = "sparkplug"
    options_model = SparkplugOptions
    modules = ("paho", "google.protobuf")
    requirement = "edgead[mqtt]"

    def run(self, feed: Feed, options: BaseModel, context: PublisherContext) -> None:
        """Publish until told to stop."""
        options = own(options, SparkplugOptions)
        node = Node(options, context)
        client_id = options.client_id or f"edgead-{context.station}-{context.name}"
        connection = Connection(
            options, client_id, context.base, will=node.begin, topics=[node.topic("NCMD"), node.topic("DCMD") + "/+"]
        )

        def send(delivered: Delivered, historical: bool) -> None:
            connection.publish(node.data(delivered, historical=historical))
            connection.publish(Message(node.marker, str(delivered.seq).encode()), delivered)

        window = Window(feed, connection, send)
        looked = 0.0
        try:
            while not context.stopping.is_set():
                is_new = connection.turn(0.0)
                if is_new or node.wants_rebirth(connection):
                    for message in node.births():
                        connection.publish(message)
                now = time.monotonic()
                if now - looked >= _LOOK_S:
                    looked = now
                    for message in node.news():
                        connection.publish(message)
                    context.report(window.figures())
                window.turn()
                if not connection.connected:
                    context.stopping.wait(_AWAY_S)
        finally:
            connection.close(node.death())


class Node:
    """What the edge node says, and its counters. ``bdSeq`` goes on over restarts, in a file."""

    def __init__(self, options: SparkplugOptions, context: PublisherContext) -> None:
        self._context = context
        self._group, self._node = options.group, options.node or context.station
        self.marker = f"edgead/v1/sparkplug/{self._group}/{self._node}/delivered"
        self._file: Path = context.folder / "bdseq"
        self._bdseq = self._read_bdseq()
        self._seq = 0
        self._last: dict[str, dict[str, Any]] = {}
        self._told: tuple[str, int] = "", 0

    def topic(self, kind: str, device: str = "") -> str:
        """Return the topic of a message of this node, or of a device."""
        return f"spBv1.0/{self._group}/{kind}/{self._node}" + (f"/{device}" if device else "")

    def begin(self) -> Message:
        """Begin a new connection: count bdSeq up and return the will, its NDEATH."""
        self._bdseq = (self._bdseq + 1) % _SEQS
        self._file.write_text(json.dumps(self._bdseq), encoding="utf-8")
        return self.death()

    def death(self) -> Message:
        """Return the NDEATH of this connection."""
        now = _now_ms()
        return Message(self.topic("NDEATH"), encode([Metric(_BDSEQ, DataType.INT64, self._bdseq, now)], now, None))

    def births(self) -> list[Message]:
        """Return NBIRTH, with which seq begins at 0, and a DBIRTH for each camera."""
        now = _now_ms()
        self._seq = 0
        self._told = state, checksum = self._state()
        metrics = [
            Metric(_BDSEQ, DataType.INT64, self._bdseq, now),
            Metric(_REBIRTH, DataType.BOOLEAN, value=False, time_ms=now),
            Metric(_STATE, DataType.STRING, state, now),
            Metric(_CHECKSUM, DataType.UINT64, checksum, now),
        ]
        births = [Message(self.topic("NBIRTH"), encode(metrics, now, 0), qos=0)]
        for camera in self._context.cameras:
            values = self._last.get(camera, {})
            born = [Metric(each.metric, _KINDS[each.kind], values.get(each.name), now) for each in RESULT_FIELDS]
            births.append(Message(self.topic("DBIRTH", camera), encode(born, now, self._next_seq()), qos=0))
        return births

    def data(self, delivered: Delivered, *, historical: bool) -> Message:
        """Return the DDATA of a result."""
        inspection = delivered.inspection
        values = result_values(inspection, historical=historical)
        if not historical:
            self._last[inspection.camera] = values
        made_ms = inspection.published_ns // 10**6
        metrics = [
            Metric(each.metric, _KINDS[each.kind], values[each.name], made_ms, historical) for each in RESULT_FIELDS
        ]
        return Message(self.topic("DDATA", inspection.camera), encode(metrics, _now_ms(), self._next_seq()), qos=0)

    def news(self) -> list[Message]:
        """Return an NDATA if the station's state or its file has changed since it was told last."""
        told = self._state()
        if told == self._told:
            return []
        self._told = state, checksum = told
        now = _now_ms()
        metrics = [
            Metric(_STATE, DataType.STRING, state, now), Metric(_CHECKSUM, DataType.UINT64, checksum, now)
        ]  # fmt: skip
        return [Message(self.topic("NDATA"), encode(metrics, now, self._next_seq()), qos=0)]

    def wants_rebirth(self, connection: Connection) -> bool:
        """Take the commands that came; tell whether one asks for births anew."""
        wanted = False
        while connection.commands:
            topic, payload, retained = connection.commands.popleft()
            try:
                wanted |= topic == self.topic("NCMD") and not retained and decode(payload).get(_REBIRTH) is True
            except EdgeadError:
                continue  # a peer's mistake: nothing to answer with in Sparkplug
        return wanted

    def _state(self) -> tuple[str, int]:
        """Return what the station says of itself, and the checksum of its file."""
        pulse = self._context.line.pulse()
        state = str(pulse.status.get("state", "starting")) if pulse.alive else "host_lost"
        return state, self._context.config_crc32

    def _next_seq(self) -> int:
        self._seq = (self._seq + 1) % _SEQS
        return self._seq

    def _read_bdseq(self) -> int:
        try:
            return int(json.loads(self._file.read_text(encoding="utf-8"))) % _SEQS
        except (OSError, ValueError, TypeError):
            return _SEQS - 1  # the first connection's is 0


def _now_ms() -> int:
    return time.time_ns() // 10**6
