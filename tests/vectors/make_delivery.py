"""Writes ``delivery.json``, the byte-level vectors of durable delivery: ``python tests/vectors/make_delivery.py``.

As with ``make.py`` the committed bytes are the law: a run that changes a vector has changed the protocol.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgpack
from make import OK, RAW_MAP, _changed, _sealed

from runtime.delivery.messages import (
    Ack,
    Closed,
    Delivery,
    Gap,
    Heartbeat,
    Refused,
    Start,
    Subscribe,
    Subscribed,
    Unsubscribe,
    encode,
    encode_delivery,
)
from runtime.wire.header import U64
from runtime.wire.messages import encode_result

HERE = Path(__file__).parent
RESULT = encode_result(OK)[1]
SUBSCRIBE = Subscribe(name="mes", session=0x0123456789ABCDEF, attempt=1, credit=128)
MESSAGES: list[tuple[str, str, Any]] = [
    ("subscribe", "a subscriber that resumes, without maps", SUBSCRIBE),
    (
        "subscribe_all_fields",
        "from the oldest, with maps",
        Subscribe(name="hist-1", session=U64, attempt=U64, credit=U64, start=Start.OLDEST, maps=True),
    ),
    ("ack", "everything up to 41 is processed", Ack(seq=41)),
    ("unsubscribe", "it leaves and will be back", Unsubscribe()),
    ("unsubscribe_forget", "it will not be back", Unsubscribe(forget=True)),
    (
        "subscribed",
        "41 was acknowledged last, 44 is the newest",
        Subscribed(name="mes", acked=41, last_seq=44, credit=128, fresh=False, heartbeat_ms=1000),
    ),
    ("delivery", "a live result without its map", Delivery(seq=1, historical=False, result=RESULT)),
    (
        "delivery_map",
        "a result from the record, with its map",
        Delivery(seq=1, historical=True, result=RESULT, map_payload=RAW_MAP),
    ),
    ("gap", "42 and 43 are gone", Gap(from_seq=42, to_seq=43)),
    ("heartbeat", "nothing new", Heartbeat(last_seq=44, acked=41)),
    ("refused", "acknowledged without a subscription", Refused(reason="not_subscribed", detail="subscribe again")),
    ("closed", "somebody else took the name", Closed(reason="replaced")),
]


def _fields(message: Any) -> dict[str, Any]:
    """Return the fields of the header; payloads are parts."""
    values = asdict(message)
    for payload in ("result", "map_payload"):
        values.pop(payload, None)
    return values | ({"map": message.map} if isinstance(message, Delivery) else {})


def messages() -> list[dict[str, Any]]:
    """Return one vector of each message."""
    vectors = []
    for name, about, message in MESSAGES:
        parts = [*map(bytes, encode_delivery(message) if isinstance(message, Delivery) else encode(message))]
        vectors.append(
            {
                "name": name,
                "about": about,
                "kind": type(message).__name__.lower(),
                "parts": [part.hex() for part in parts],
                "fields": _fields(message),
            }
        )
    return vectors


def refused() -> list[dict[str, Any]]:
    """Return messages that must be refused, to the host (``request``) or to a subscriber (``answer``)."""
    topic, sealed = encode(SUBSCRIBE)
    delivery = [*map(bytes, encode_delivery(Delivery(seq=1, historical=False, result=RESULT, map_payload=RAW_MAP)))]
    gap = encode(Gap(from_seq=42, to_seq=43))
    cases: list[tuple[str, str, str, list[bytes]]] = [
        ("request", "parts", "the header missing", [topic]),
        ("request", "parts", "a third part", [topic, sealed, b""]),
        ("request", "topic", "topic of a message to subscribers", gap),
        ("request", "header_size", "a header of four bytes", [topic, sealed[:4]]),
        ("request", "header_crc", "one bit flipped", [topic, bytes([sealed[0] ^ 1]) + sealed[1:]]),
        ("request", "header_encoding", "an array where a map is due", [topic, _sealed(msgpack.packb([1, 2]))]),
        ("request", "schema", "header of another message", [topic, encode(Ack(seq=1))[1]]),
        ("request", "version", "major version 2", [topic, _changed(sealed, version=[2, 0])]),
        ("request", "field", "no name", [topic, _changed(sealed, name="")]),
        ("request", "field", "credit 0", [topic, _changed(sealed, credit=0)]),
        ("request", "field", "session missing", [topic, _changed(sealed, session=...)]),
        ("request", "field", "an unknown start", [topic, _changed(sealed, start="newest")]),
        ("request", "field", "maps as a number", [topic, _changed(sealed, maps=1)]),
        ("answer", "parts", "the map missing", delivery[:3]),
        ("answer", "parts", "a map though the header says none", [*delivery[:1], _changed(delivery[1], map=False),
                                                                   *delivery[2:]]),
        ("answer", "parts", "a payload behind a gap", [*gap, b""]),
        ("answer", "topic", "topic of a message to the host", [topic, sealed]),
        ("answer", "field", "a gap that ends before it begins", [gap[0], _changed(gap[1], to_seq=41)]),
        ("answer", "field", "result 0", [delivery[0], _changed(delivery[1], seq=0), *delivery[2:]]),
    ]  # fmt: skip
    return [
        {"kind": kind, "refusal": word, "about": about, "parts": [part.hex() for part in parts]}
        for kind, word, about, parts in cases
    ]


def main() -> None:
    """Write the file."""
    vectors = {"messages": messages(), "refused": refused()}
    (HERE / "delivery.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
