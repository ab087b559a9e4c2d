"""The messages of durable delivery, as functions from bytes to values. No socket in this file.

Topic and header part are built as all others of the protocol are (``runtime.wire.header``); ``docs/delivery.md``
describes them for other languages. Damaged bytes give ``WireError`` with a word of ``header.REFUSALS`` and nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeAlias

from runtime.errors import WireError
from runtime.inspection import Inspection
from runtime.wire.header import (
    Buffer,
    Field,
    boolean,
    choice,
    clip_text,
    integer,
    is_name,
    open_header,
    read_fields,
    seal,
    text,
    topic_name,
)
from runtime.wire.messages import RESULT_SCHEMA, decode_result, result_topic

TOPIC_PREFIX = b"ead.v1."
SCHEMA_PREFIX = "edgead."
#: Most parts of a message to a subscriber: topic, header, the result's header, the map.
DELIVERY_PARTS = 4
#: Most parts of a message to the host: topic and header.
REQUEST_PARTS = 2
#: Most deliveries on their way to one subscriber; one that asks for more is granted this many.
MAX_CREDIT = 256


class Start(StrEnum):
    """Where a name never seen before begins: with the next result, or with the oldest the ledger holds."""

    LAST_ACKED = "last_acked"
    OLDEST = "oldest"


#: Why the host does not take a message, beside the words of ``header.REFUSALS``.
REASONS = {
    "not_subscribed": "this connection has no subscription: subscribe again",
    "too_many": "as many names as the host keeps are registered: remove one that nobody uses",
    "unavailable": "the ledger cannot be read or written now: subscribe again later",
    "ahead": "acknowledges what was not sent on this connection: subscribe again",
}
#: Why a subscription has ended.
ENDINGS = {
    "replaced": "another connection has subscribed under this name",
    "left": "the subscriber said so; its name and what it is owed are kept",
    "forgotten": "the subscriber said so; its name is owed nothing any more",
    "stopping": "the host stops: subscribe again when it is back",
}


# --- to the host --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Deliver to this connection what ``name`` is owed. ``credit``: most deliveries on their way, unacknowledged.

    ``session`` is drawn at random when a subscriber starts, ``attempt`` counts its subscribes: one that comes late from
    an older connection of the same subscriber is told from one by another.
    """

    name: str
    session: int
    attempt: int
    credit: int
    start: Start = Start.LAST_ACKED
    maps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Everything up to ``seq`` is processed."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """End the subscription; ``forget``: and owe the name nothing any more."""

    forget: bool = False


# --- to the subscriber --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """The answer to ``Subscribe``: what follows begins after ``acked``; ``last_seq`` is the newest result there is.

    ``credit``: as granted. ``fresh``: the name was registered by this. ``heartbeat_ms``: the longest silence.
    """

    name: str
    acked: int
    last_seq: int
    credit: int
    fresh: bool
    heartbeat_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One result. ``result``: its header part, byte for byte as first sent; ``map_payload``: if asked for and there.

    ``historical`` false: sent in the host's turn that committed it; true: sent later, from the record.
    """

    seq: int
    historical: bool
    result: bytes
    map_payload: Buffer | None = None

    @property
    def map(self) -> bool:
        """Whether the map is there; the header says so, for the parts to be counted."""
        return self.map_payload is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Results ``from_seq``..``to_seq`` (both included) were removed from the record before they were acknowledged."""

    from_seq: int
    to_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The host is there. ``last_seq``: newest result; ``acked``: what it takes this subscriber to have acknowledged."""

    last_seq: int
    acked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A message was not taken. ``reason``: a word of ``REASONS`` or ``header.REFUSALS``; ``detail`` is for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The subscription of this connection has ended; ``reason`` is a word of ``ENDINGS``."""

    reason: str


Request: TypeAlias = Subscribe | Ack | Unsubscribe
Notice: TypeAlias = Subscribed | Gap | Heartbeat | Refused | Closed

# --- encoding -----------------------------------------------------------------------------------------------------


def topic_of(kind: type[Any]) -> bytes:
    """Return the topic of a class of messages: ``ead.v1.`` and its name in small letters."""
    return TOPIC_PREFIX + kind.__name__.lower().encode()


def encode(message: Request | Notice) -> list[bytes]:
    """Return topic and header of any message but a delivery. ``detail`` is cut to what its field holds."""
    kind = type(message)
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    if isinstance(message, Refused):
        values["detail"] = clip_text(message.detail)
    return [topic_of(kind), seal(_schema(kind), values)]


def encode_delivery(delivery: Delivery) -> list[Buffer]:
    """Return the parts of a delivery: topic, header, the result's header, the map if it is there."""
    values = dict(zip(_DELIVERY_NAMES, _delivery_values(delivery), strict=True))
    parts: list[Buffer] = [_DELIVERY_TOPIC, seal(_schema(Delivery), values), delivery.result]
    return parts if delivery.map_payload is None else [*parts, delivery.map_payload]


# --- decoding -----------------------------------------------------------------------------------------------------


def decode_request(parts: Sequence[Buffer]) -> Request:
    """Return what a subscriber sent to the host; raises ``WireError`` only."""
    kind, values = _open(parts, _REQUESTS, REQUEST_PARTS)
    request: Request = kind(**values)
    return request


def decode_answer(parts: Sequence[Buffer]) -> Notice | Delivery:
    """Return what the host sent to a subscriber; raises ``WireError`` only.

    Of a delivery the result's header is not read yet: see ``inspection_of``. The map is a view, not a copy.
    """
    kind, values = _open(parts, _ANSWERS, DELIVERY_PARTS)
    if kind is Delivery:
        payloads = 1 + values.pop("map")
        if len(parts) != 2 + payloads:
            raise WireError("parts", f"expected {2 + payloads} parts as the header says, found {len(parts)}")
        map_payload = memoryview(parts[3]) if payloads == 2 else None  # noqa: PLR2004 -- result and map
        return Delivery(**values, result=bytes(parts[2]), map_payload=map_payload)
    if len(parts) != 2:  # noqa: PLR2004 -- topic and header
        raise WireError("parts", f"expected 2 parts, found {len(parts)}")
    notice: Notice = kind(**values)
    if isinstance(notice, Gap) and notice.from_seq > notice.to_seq:
        raise WireError("field", f"to_seq: expected {notice.from_seq} or more, found {notice.to_seq}")
    return notice


def inspection_of(delivery: Delivery) -> Inspection:
    """Return the record of a delivery, ``historical`` as it is here; raises ``WireError`` only.

    ``map`` describes the map delivered with it, None where none is; previews are not delivered.
    """
    header = dict(open_header(delivery.result, RESULT_SCHEMA))
    names = header.get("station"), header.get("camera")
    if not all(map(is_name, names)):
        raise WireError("field", f"expected the names of a station and a camera, found {str(names)[:80]}")
    parts: list[Buffer] = [result_topic(*map(str, names))]
    header |= {"historical": delivery.historical, "preview": None}
    if delivery.map_payload is None:
        header["map"] = None
        parts += [seal(RESULT_SCHEMA, header)]
    else:
        parts += [seal(RESULT_SCHEMA, header), delivery.map_payload]
    inspection, _, _ = decode_result(parts)
    if inspection.seq != delivery.seq:
        raise WireError("field", f"seq: expected result {delivery.seq} as the delivery says, found {inspection.seq}")
    return inspection


def _open(
    parts: Sequence[Buffer], kinds: Mapping[bytes, type[Any]], most_parts: int
) -> tuple[type[Any], dict[str, Any]]:
    if not 2 <= len(parts) <= most_parts:  # noqa: PLR2004 -- topic and header
        raise WireError("parts", f"expected 2 to {most_parts} parts, found {len(parts)}")
    kind = kinds.get(bytes(parts[0][:_LONGEST_TOPIC]))
    if kind is None:
        raise WireError(
            "topic", f"expected one of {[*map(bytes.decode, kinds)]}, found {bytes(parts[0][:_LONGEST_TOPIC])!r}"
        )
    return kind, read_fields(open_header(parts[1], _schema(kind)), FIELDS[kind])


def _schema(kind: type[Any]) -> str:
    return SCHEMA_PREFIX + kind.__name__.lower()


# --- fields, in wire order ----------------------------------------------------------------------------------------

FIELDS: dict[type[Any], tuple[Field, ...]] = {
    Subscribe: (
        topic_name("name"),
        integer("session"),
        integer("attempt"),
        integer("credit", 1),
        choice("start", {each.value: each for each in Start}, default=Start.LAST_ACKED.value),
        boolean("maps", default=False),
    ),
    Ack: (integer("seq"),),
    Unsubscribe: (boolean("forget", default=False),),
    Subscribed: (
        topic_name("name"),
        integer("acked"),
        integer("last_seq"),
        integer("credit", 1),
        boolean("fresh"),
        integer("heartbeat_ms", 1),
    ),
    Delivery: (integer("seq", 1), boolean("historical"), boolean("map")),
    Gap: (integer("from_seq", 1), integer("to_seq", 1)),
    Heartbeat: (integer("last_seq"), integer("acked")),
    Refused: (text("reason"), text("detail")),
    Closed: (text("reason"),),
}
_REQUESTS = {topic_of(kind): kind for kind in (Subscribe, Ack, Unsubscribe)}
_ANSWERS = {topic_of(kind): kind for kind in (Subscribed, Delivery, Gap, Heartbeat, Refused, Closed)}
#: One byte more than any topic has: a longer one is none of them.
_LONGEST_TOPIC = max(map(len, (*_REQUESTS, *_ANSWERS))) + 1
_DELIVERY_TOPIC = topic_of(Delivery)
_DELIVERY_NAMES = [field.name for field in FIELDS[Delivery]]
_delivery_values = attrgetter(*_DELIVERY_NAMES)
