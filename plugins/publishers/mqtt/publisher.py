"""Results as JSON over MQTT, with a retained state, a last will, and commands in; see docs/mqtt.md."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from edgead import Delivered, EdgeadError, Feed, Publisher, PublisherContext
from plugins.publishers.mqtt.connection import BrokerOptions, Connection, Message
from plugins.publishers.mqtt.window import Window
from plugins.publishers.options import Level, own
from plugins.publishers.record import encode_record, encode_result

#: Name and version of the records beside the results.
STATE_SCHEMA, EVENT_SCHEMA, ANSWER_SCHEMA = "edgead.state/1", "edgead.event/1", "edgead.answer/1"
#: Pause between two looks at what of the state has changed, and two waits while the broker is away.
_LOOK_S, _AWAY_S = 0.25, 0.05
#: Triggers whose ids are remembered until the station's word on them comes; it holds no more.
MOST_EXPECTED = 256


class MqttOptions(BrokerOptions):
    """Options of the MQTT publisher."""

    site: Level = "site"
    """Level of every topic: edgead/v1/<site>/<line>/<station>/..."""
    line: Level = "line"
    """Level of every topic."""
    commands: bool = True
    """Take triggers and recipe changes from .../cmd/trigger and .../cmd/recipe. Who may publish there is the broker's
    business: give it an access list."""


class Mqtt(Publisher):
    """JSON results on QoS 1, retained state, last will, commands."""

    name = "mqtt"
    options_model = MqttOptions
    modules = ("paho",)
    requirement = "edgead[mqtt]"

    def run(self, feed: Feed, options: BaseModel, context: PublisherContext) -> None:
        """Publish until told to stop."""
        options = own(options, MqttOptions)
        topics = Topics(f"edgead/v1/{options.site}/{options.line}/{context.station}")
        offline = Message(topics.state, encode_record(STATE_SCHEMA, {"state": "offline"}), retain=True)
        commands = [topics.trigger, topics.recipe] if options.commands else []
        client_id = options.client_id or f"edgead-{context.station}-{context.name}"
        connection = Connection(options, client_id, context.base, will=lambda: offline, topics=commands)

        def send(delivered: Delivered, historical: bool) -> None:
            if delivered.gap is not None:
                lost = {"event": "gap", "from_seq": delivered.gap.from_seq, "to_seq": delivered.gap.to_seq}
                connection.publish(Message(topics.event, encode_record(EVENT_SCHEMA, lost)))
            connection.publish(Message(topics.result, encode_result(delivered, historical=historical)), delivered)

        window = Window(feed, connection, send)
        state, words = StateTopic(topics.state, connection, context), Words()
        try:
            while not context.stopping.is_set():
                if connection.turn(0.0):
                    state.forget()
                state.turn(window)
                while connection.commands:
                    topic, payload, retained = connection.commands.popleft()
                    answer = obey(topic == topics.trigger, payload, context, retained=retained)
                    if topic == topics.trigger and answer["ok"]:
                        words.expect(json.loads(payload))
                    connection.publish(Message(topics.answer, encode_record(ANSWER_SCHEMA, answer)))
                for answer in words.take(context.line.answers()):
                    connection.publish(Message(topics.answer, encode_record(ANSWER_SCHEMA, answer)))
                window.turn()
                if not connection.connected:
                    context.stopping.wait(_AWAY_S)
        finally:
            connection.close(offline)


class Topics:
    """The topics of a station, below ``root``."""

    def __init__(self, root: str) -> None:
        self.result, self.state, self.event = f"{root}/result", f"{root}/state", f"{root}/event"
        self.trigger, self.recipe, self.answer = f"{root}/cmd/trigger", f"{root}/cmd/recipe", f"{root}/answer"


class StateTopic:
    """The retained state: what the station's inspection loop says of itself, told when it changes."""

    def __init__(self, topic: str, connection: Connection, context: PublisherContext) -> None:
        self._topic, self._connection, self._context = topic, connection, context
        self._told: Mapping[str, Any] | None = None
        self._looked = 0.0

    def forget(self) -> None:
        """Tell it anew: the connection is new, and the broker may have told the will."""
        self._told, self._looked = None, 0.0

    def turn(self, window: Window) -> None:
        """Look four times a second; report figures at the same pace."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        pulse = self._context.line.pulse()
        found = str(pulse.status.get("state", "starting")) if pulse.alive else "host_lost"
        state = {"state": "online" if found == "ready" else found, "config_crc32": self._context.config_crc32}
        if state != self._told and self._connection.connected:
            self._connection.publish(Message(self._topic, encode_record(STATE_SCHEMA, state), retain=True))
            self._told = state
        self._context.report(window.figures())


class Words:
    """The station's word on triggers that came as commands, with the ``id`` the command had."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, int], Any] = {}

    def expect(self, said: Mapping[str, Any]) -> None:
        """Note the ``id`` of a trigger that was taken."""
        self._ids[said["camera"], said["trigger_id"]] = said.get("id")
        while len(self._ids) > MOST_EXPECTED:
            del self._ids[next(iter(self._ids))]

    def take(self, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the last answer to each: the ``seq`` of its result, or why it will have none."""
        return [
            {"id": self._ids.pop((each.camera, each.trigger_id), None), "ok": not each.refused, "error": each.refused,
             "camera": each.camera, "trigger_id": each.trigger_id, "seq": each.seq or None}
            for each in answers
        ]  # fmt: skip


def obey(is_trigger: bool, payload: bytes, context: PublisherContext, *, retained: bool) -> dict[str, Any]:
    """Do what a command says; return its answer: ``id`` as given, ``ok``, and ``error``, a sentence or empty."""
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return {"id": None, "ok": False, "error": "expected a JSON object"}
    identity = said.get("id") if isinstance(said.get("id"), str | int) else None
    fault = _fault(is_trigger, said) or (
        "a retained command would be obeyed again at every connection: publish it without the retain flag"
        if retained
        else ""
    )
    if fault:
        return {"id": identity, "ok": False, "error": fault}
    try:
        if is_trigger:
            context.line.trigger(
                said["camera"], said["trigger_id"], said.get("part_id", ""), said.get("recipe", ""),
                said.get("raised_ns"),
            )  # fmt: skip
        else:
            context.line.select_recipe(said["camera"], said["recipe"])
    except EdgeadError as error:
        return {"id": identity, "ok": False, "error": str(error)}
    return {"id": identity, "ok": True, "error": ""}


_TRIGGER = {"camera": str, "trigger_id": int}
_TRIGGER_OPTIONAL = {"part_id": str, "recipe": str, "raised_ns": int, "id": object}
_RECIPE = {"camera": str, "recipe": str}


def _fault(is_trigger: bool, said: Mapping[str, Any]) -> str:
    """Return what is wrong with a command's fields; empty where nothing is."""
    required = _TRIGGER if is_trigger else _RECIPE
    optional = _TRIGGER_OPTIONAL if is_trigger else {"id": object}
    for key, kind in {**required, **optional}.items():
        if key in required and key not in said:
            return f"expected the field {key}"
        if key in said and kind is not object and type(said[key]) is not kind:
            return f"expected {key} as {kind.__name__}, found {type(said[key]).__name__}"
    unknown = sorted(said.keys() - required.keys() - optional.keys())
    if unknown:
        return f"unknown fields {', '.join(unknown)[:100]}"
    if is_trigger and not 0 <= said["trigger_id"] < 2**64:
        return "expected a trigger_id of 0 to 2^64-1"
    return ""
