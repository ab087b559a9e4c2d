"""One MQTT connection after another, driven by the publisher's own thread: connect, publish, learn what arrived.

paho keeps what is not acknowledged in memory and sends it again by itself, as if it were still live; here a connection
that is lost takes its messages with it, and the publisher sends again what was not acknowledged, as what it then is:
late. So every connection is a new client object. A will belongs to a connection, so each publisher has its own.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from edgead import ConfigError, Options, Secret
from plugins.publishers.options import Port

log = logging.getLogger("edgead.mqtt")

#: Pauses between two attempts to connect.
FIRST_RETRY_S, MAX_RETRY_S = 0.5, 10.0
#: Longest wait for a TCP connection, and then for the broker's word: a publisher must end within three seconds.
CONNECT_S = 2.0
#: Results on their way that the broker has not acknowledged.
WINDOW = 32
#: Longest command taken from a topic.
MAX_COMMAND_BYTES = 8192


class Tls(Options):
    """TLS towards the broker; its certificate is always checked."""

    ca: Annotated[Path, Field(strict=False)] | None = None
    """File of certificates (PEM) the broker's must come from; null: those the machine trusts."""
    certificate: Annotated[Path, Field(strict=False)] | None = None
    """This station's own certificate (PEM), where the broker asks for one."""
    key: Annotated[Path, Field(strict=False)] | None = None
    """Its private key (PEM)."""


class BrokerOptions(Options):
    """How to reach a broker."""

    host: str
    """Name or address of the broker."""
    port: Port = 1883
    """TCP port; usually 8883 with TLS."""
    username: str = ""
    """User name; empty: none."""
    password: Secret | None = None
    """Its password: `env: NAME` or `file: PATH`."""
    tls: Tls | None = None
    """TLS; null: none, and a password then crosses the network in the clear."""
    keepalive_s: Annotated[int, Field(ge=1, le=3600)] = 15
    """A broker, or this publisher, silent for one and a half times as long is taken for dead."""
    client_id: str = ""
    """Name of the connection at the broker, one for each publisher; empty: made from station and publisher."""


class Message(NamedTuple):
    """A message to publish."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Connection:
    """The way to one broker. ``will``: returns what the broker shall say when this publisher is gone without a word.

    ``turn`` does the work and must be called often; ``acknowledged`` then holds the tokens of messages that arrived,
    ``lost`` those of a broken connection, in their order, ``commands`` what came by the subscribed topics.
    """

    def __init__(
        self, options: BrokerOptions, client_id: str, base: Path, *, will: Callable[[], Message], topics: list[str]
    ) -> None:
        self._options, self._client_id, self._base = options, client_id, base
        self._will, self._topics = will, topics
        self._client: Any = None
        self._on_way: dict[int, Any] = {}
        self._next_attempt, self._retry_s = 0.0, FIRST_RETRY_S
        self.connected = False
        #: When this connection was made, UTC nanoseconds.
        self.since_ns = 0
        self.connects = 0
        self.last_error = ""
        self.acknowledged: deque[Any] = deque()
        self.lost: deque[Any] = deque()
        self.commands: deque[tuple[str, bytes, bool]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another message with a token may be published."""
        return self.connected and len(self._on_way) < WINDOW

    @property
    def on_way(self) -> int:
        """Messages the broker has not acknowledged."""
        return len(self._on_way)

    def turn(self, wait_s: float) -> bool:
        """Connect if it is time to, read and write for at most ``wait_s``; True if it has just connected."""
        if self._client is None:
            if time.monotonic() < self._next_attempt:
                return False
            self._connect()
            return self.connected
        if self._client.loop(timeout=wait_s) != 0:
            self._drop("the connection broke")
        return False

    def publish(self, message: Message, token: Any = None) -> None:
        """Publish now; ``token`` comes back by ``acknowledged`` (QoS 1 only) or ``lost``. Ignored if not connected."""
        if not self.connected:
            if token is not None:
                self.lost.append(token)
            return
        sent = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        if sent.rc != 0:
            if token is not None:
                self._on_way[sent.mid] = token
            self._drop(f"publishing failed: {sent.rc}")
        elif token is not None:
            self._on_way[sent.mid] = token

    def close(self, *farewell: Message) -> None:
        """Say a last word, wait a second at most for what is on its way, and disconnect in order: no will."""
        for message in farewell:
            self.publish(message, token=self)
        give_up = time.monotonic() + 1.0
        while self.connected and self._on_way and time.monotonic() < give_up:
            self.turn(0.02)
        if self._client is not None:
            self._client.disconnect()
            self._client.loop(timeout=0.1)
            self._client = None

    # --- inside -------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        from paho.mqtt.client import Client, MQTTProtocolVersion
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(
            CallbackAPIVersion.VERSION2, self._client_id, clean_session=True, protocol=MQTTProtocolVersion.MQTTv311
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(0)  # the window is ours
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_publish, client.on_message = self._published, self._commanded
        if self._options.username:
            secret = self._options.password.read(self._base) if self._options.password is not None else None
            client.username_pw_set(self._options.username, secret)
        if self._options.tls is not None:
            client.tls_set_context(self._tls(self._options.tls))
        will = self._will()
        client.will_set(will.topic, will.payload, will.qos, will.retain)
        try:
            client.connect(self._options.host, self._options.port, self._options.keepalive_s)
            self._client = client
            give_up = time.monotonic() + CONNECT_S
            while self._client is client and not self.connected and time.monotonic() < give_up:
                if client.loop(timeout=0.05) != 0:
                    break
        except (OSError, ValueError) as error:
            self._drop(f"{self._options.host}:{self._options.port}: {error}")
            return
        if not self.connected:
            self._drop(self.last_error or f"{self._options.host}:{self._options.port}: no word from the broker")
            return
        self.connects += 1
        self.since_ns = time.time_ns()
        self._retry_s = FIRST_RETRY_S
        for topic in self._topics:
            client.subscribe(topic, qos=1)

    def _tls(self, options: Tls) -> ssl.SSLContext:
        def place(path: Path | None) -> str | None:
            return None if path is None else str(self._base / path)

        try:
            context = ssl.create_default_context(cafile=place(options.ca))
            if options.certificate is not None:
                context.load_cert_chain(str(self._base / options.certificate), place(options.key))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"expected certificates in PEM files under `tls`, cannot be used: {error}") from error
        return context

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.last_error = f"the broker refused the connection: {reason}"
            return
        self.connected, self.last_error = True, ""

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self.connected:
            self.last_error = f"disconnected: {reason}"
        self.connected = False

    def _published(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        if mid in self._on_way:
            self.acknowledged.append(self._on_way.pop(mid))

    def _commanded(self, _client: Any, _data: Any, message: Any) -> None:
        if len(message.payload) <= MAX_COMMAND_BYTES:
            self.commands.append((message.topic, bytes(message.payload), bool(message.retain)))

    def _drop(self, why: str) -> None:
        """Give the client up, with everything paho would send again by itself."""
        client, self._client = self._client, None
        if client is not None:
            client.on_disconnect = None
            sock = client.socket()
            if sock is not None:
                sock.close()
        self.connected = False
        if why != self.last_error:
            log.warning("%s", why)
        self.last_error = why
        self.lost.extend(self._on_way.values())
        self._on_way.clear()
        self._next_attempt = time.monotonic() + self._retry_s
        self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)
