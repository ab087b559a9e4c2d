"""Results by HTTP POST, for an MES that speaks nothing else: in order, signed, repeated until they are taken.

One request a result, JSON as on MQTT. The signature is an HMAC-SHA256 over time and body, so that a request can neither
be changed nor sent again later by somebody else. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import logging
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

from edgead import ConfigError, Delivered, Feed, Options, Publisher, PublisherContext, Secret
from plugins.publishers.options import own
from plugins.publishers.record import encode_result

log = logging.getLogger("edgead.webhook")

#: Header fields of the signature: time (UTC seconds) and "sha256=" with the HMAC of "TIME.BODY" in hex.
TIME_FIELD, SIGNATURE_FIELD = "Edgead-Time", "Edgead-Signature"
#: Names the result: the receiver tells repetitions by it.
ID_FIELD = "Idempotency-Key"
FIRST_RETRY_S, MAX_RETRY_S = 0.5, 30.0
#: Answers that will not change: the receiver does not want this result, however often it is sent.
_REFUSED = frozenset({400, 413, 415, 422})
_REPORT_S = 0.5
#: A request that takes so many times ``timeout_s`` is given up: a receiver may drip its answer byte by byte.
_MOST_STEPS = 3


class WebhookOptions(Options):
    """Options of the webhook."""

    url: str
    """Where results are posted: https://HOST[:PORT]/PATH or http://..."""
    secret: Secret | None = None
    """Key of the signature: `env: NAME` or `file: PATH`; null: not signed."""
    token: Secret | None = None
    """Bearer token, where the receiver asks for one."""
    ca: Annotated[Path, Field(strict=False)] | None = None
    """File of certificates (PEM) an https receiver's must come from; null: those the machine trusts."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Longest wait for the receiver at each step of a request; three times that for all of it."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise ValueError("expected https://HOST/PATH or http://HOST/PATH, without a user name")
        return url


class Webhook(Publisher):
    """Results by HTTP POST."""

    name = "webhook"
    options_model = WebhookOptions

    def run(self, feed: Feed, options: BaseModel, context: PublisherContext) -> None:
        """Post until told to stop."""
        options = own(options, WebhookOptions)
        receiver = Receiver(options, context.base)
        posted = refused = 0
        reported = 0.0
        while not context.stopping.is_set():
            delivered = feed.receive(0.1)
            if delivered is not None and self._hand_over(receiver, delivered, context):
                feed.done(delivered)
                posted += 1
                refused += receiver.refused
            if time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                context.report({"posted": posted, "refused": refused, "last_error": receiver.last_error})
        receiver.close()

    def _hand_over(self, receiver: Receiver, delivered: Delivered, context: PublisherContext) -> bool:
        """Post one result until it is taken or refused for good; False if told to stop before."""
        historical, retry_s = delivered.historical, FIRST_RETRY_S
        while not receiver.post(delivered, historical=historical):
            historical = True  # by the time it is taken it is late
            context.report({"last_error": receiver.last_error, "retrying": delivered.seq})
            if context.stopping.wait(retry_s):
                return False
            retry_s = min(2 * retry_s, MAX_RETRY_S)
        return True


class Receiver:
    """The other end: a connection that is kept while it works."""

    def __init__(self, options: WebhookOptions, base: Path) -> None:
        self.last_error = ""
        self.refused = False
        parts = urlsplit(options.url)
        self._host, self._timeout_s = str(parts.hostname), options.timeout_s
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _tls(options, base) if parts.scheme == "https" else None
        self._secret = options.secret.read(base).encode() if options.secret else b""
        self._token = options.token.read(base) if options.token else ""
        self._connection: http.client.HTTPConnection | None = None

    def post(self, delivered: Delivered, *, historical: bool) -> bool:
        """Post one result; True if it was taken (2xx) or is refused for good, which is counted and logged."""
        body = encode_result(delivered, historical=historical)
        try:
            status = self._exchange(body, delivered.inspection.result_id)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self.last_error = f"{type(error).__name__}: {error}"
            return False
        self.refused = status in _REFUSED
        if self.refused:
            log.error("result %s was refused for good: %d", delivered.inspection.result_id, status)
        taken = self.refused or 200 <= status < 300  # noqa: PLR2004 - HTTP's own
        self.last_error = "" if taken and not self.refused else f"HTTP status {status}"
        return taken

    def _exchange(self, body: bytes, result_id: str) -> int:
        if self._connection is None:
            self._connection = (
                http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
                if self._tls is None
                else http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
            )
        fields = {"Content-Type": "application/json", ID_FIELD: result_id}
        if self._token:
            fields["Authorization"] = f"Bearer {self._token}"
        if self._secret:
            fields |= sign(self._secret, int(time.time()), body)
        watch = threading.Timer(_MOST_STEPS * self._timeout_s, _cut, [self._connection])
        watch.start()
        try:
            self._connection.request("POST", self._target, body, fields)
            response = self._connection.getresponse()
            response.read(65536)
        finally:
            watch.cancel()
        if not response.isclosed():  # more than anybody needs to say
            self.close()
        return response.status

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _cut(connection: http.client.HTTPConnection) -> None:
    """Break a connection off: whoever reads from it gets its end."""
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def sign(secret: bytes, time_s: int, body: bytes) -> dict[str, str]:
    """Return the header fields that sign a body; ``time_s``: UTC seconds."""
    digest = hmac.new(secret, f"{time_s}.".encode() + body, hashlib.sha256).hexdigest()
    return {TIME_FIELD: str(time_s), SIGNATURE_FIELD: f"sha256={digest}"}


def _tls(options: WebhookOptions, base: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if options.ca is None else str(base / options.ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"expected certificates in a PEM file under `ca`, cannot be used: {error}") from error
