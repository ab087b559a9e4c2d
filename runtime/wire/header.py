"""A header part: one msgpack map sealed by a checksum, and the checked reading of its fields. No socket here.

Bytes: the msgpack map, then its CRC-32 (IEEE 802.3, as in zlib) as four bytes, big-endian. Every function below returns
a checked value or raises ``WireError`` with a word of ``REFUSALS``; nothing else leaves this file, whatever the bytes.
What the fields of a map must be is a list of ``Field``; the word ``read_fields`` raises is ``field``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgpack

from runtime.errors import WireError

Buffer: TypeAlias = bytes | bytearray | memoryview

VERSION = (1, 1)

#: A header is a few hundred bytes; 8 KiB leaves room for fields of later minor versions.
MAX_HEADER_BYTES = 8 * 1024
#: The smallest header part: an empty map is one byte, its checksum four.
MIN_HEADER_BYTES = 5
#: Most elements of any array or map inside a header. The unpacker reserves room for as many as are announced, at every
#: level of nesting: without this limit 3 KB of nested array heads make it reserve more than 60 MB before it gives up.
MAX_ELEMENTS = 256
#: 16384 x 16384 is beyond any area sensor on the market; line-scan frames are shorter.
MAX_SIDE_PX = 16384
#: Largest payload any host accepts (a 64-megapixel colour frame is 192 MiB); a station file may set less.
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024
#: Longest text field, in UTF-8 bytes; part ids are shorter because PLC images reserve 32 bytes for them.
MAX_TEXT_BYTES = 512
MAX_PART_ID_BYTES = 32
MAX_NAME_BYTES = 64
MAX_RECIPE_BYTES = 64
U64 = 2**64 - 1

#: Why a message can be refused, as a stable word that is counted and sent back.
REFUSALS = {
    "parts": "the number of message parts is wrong",
    "topic": "the topic part is not the expected one",
    "header_size": "the header part is shorter than 5 bytes or longer than MAX_HEADER_BYTES",
    "header_crc": "the last four bytes of the header part are not the CRC-32 of the bytes before them",
    "header_encoding": "the header part is not one msgpack map with text keys",
    "schema": "the header names another schema",
    "version": "the header names a major version this side does not speak",
    "field": "a field is missing, has the wrong type, or is out of range",
    "frame_size": "the frame is larger than this host accepts",
    "payload_size": "the pixels or the map are not of the size the header says",
    "payload_crc": "payload_crc32 is present and does not match the payload",
    "unknown_camera": "the station file lists no camera of that name",
    "frame_reused": "the frame's session and frame_id were used for another frame before: begin a new session",
    "no_trigger": "the station waits for triggers, and none was raised for this frame",
    "late": "the frame came after its trigger was answered",
    "second": "the frame's trigger has another frame already",
    "not_ahead": "the camera's triggers come with its frames: the station file says so",
    "unrecorded": "the frame or trigger cannot be recorded: the disk was full or failing too long",
}

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def is_name(text: object) -> bool:
    """Tell whether ``text`` can name a station or a camera: 1..64 of A-Z a-z 0-9 _ - (a dot separates topic levels)."""
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME_BYTES and _NAME_CHARACTERS.issuperset(text)


def clip_text(text: str, most: int = MAX_TEXT_BYTES) -> str:
    """Return ``text`` cut to ``most`` UTF-8 bytes, between two characters; what UTF-8 cannot carry becomes "?"."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def seal(schema: str, fields: Mapping[str, Any]) -> bytes:
    """Return the header part of ``schema`` with ``fields``, in their order; their ranges are not checked.

    Raises ``WireError``: ``field`` for a value msgpack cannot carry, ``header_size`` for too many bytes.
    """
    try:
        packed: bytes = msgpack.packb({"schema": schema, "version": list(VERSION), **fields})
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError("field", f"expected text, integers below 2**64, floats and booleans: {error}") from error
    if len(packed) + 4 > MAX_HEADER_BYTES:
        raise WireError(
            "header_size",
            f"expected a header of at most {MAX_HEADER_BYTES} bytes, built {len(packed) + 4}: shorten its texts",
        )
    return packed + zlib.crc32(packed).to_bytes(4, "big")


def open_header(part: Buffer, schema: str) -> Mapping[str, Any]:
    """Check size, checksum, encoding, schema and version of a header part, in this order; return its map."""
    size = memoryview(part).nbytes
    if not MIN_HEADER_BYTES <= size <= MAX_HEADER_BYTES:
        raise WireError("header_size", f"expected {MIN_HEADER_BYTES} to {MAX_HEADER_BYTES} bytes, found {size}")
    data = bytes(part)
    packed, checksum = data[:-4], int.from_bytes(data[-4:], "big")
    if zlib.crc32(packed) != checksum:
        raise WireError(
            "header_crc", f"expected CRC-32 {zlib.crc32(packed):#010x} behind the map, found {checksum:#010x}"
        )
    fields = _unpack(packed)
    if fields.get("schema") != schema:
        raise WireError("schema", f"expected {schema!r}, found {_shown(fields.get('schema'))}")
    _check_version(fields.get("version"))
    return fields


def expect_parts(parts: Sequence[Buffer], least: int, most: int) -> None:
    """Refuse a message of another number of parts than ``least``..``most``."""
    if not least <= len(parts) <= most:
        raise WireError("parts", f"expected {least} to {most} parts, found {len(parts)}")


def _unpack(packed: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(
            packed,
            raw=False,
            strict_map_key=True,
            max_ext_len=0,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
        )
    except (ValueError, msgpack.exceptions.UnpackException, TypeError, RecursionError) as error:
        raise WireError("header_encoding", f"expected one msgpack map: {error or type(error).__name__}") from error
    if not isinstance(fields, dict) or not {*map(type, fields)} <= {str}:
        raise WireError("header_encoding", "expected a map with text keys")
    return fields


def _check_version(version: object) -> None:
    if not (isinstance(version, list) and [*map(type, version)] == [int, int] and min(version) >= 0):
        raise WireError("version", f"expected [major, minor], found {_shown(version)}")
    if version[0] != VERSION[0]:
        raise WireError(
            "version", f"expected major version {VERSION[0]}, found {version[0]}: update this side or the other"
        )


_REQUIRED: Any = object()


def _shown(value: object) -> str:
    """Show a hostile value in an error: scalars shortened, containers by type only (their repr may not end)."""
    return repr(value)[:40] if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__


class Field(NamedTuple):
    """What one field of a header must be; made by the functions below, read by ``read_fields``."""

    name: str
    kind: type[Any]  # int, float, str or bool
    expected: str  # in an error's words
    least: int = 0  # smallest integer
    most: int = 0  # largest integer, or most UTF-8 bytes of a text
    default: Any = _REQUIRED  # read where the field is absent; None: the field may also be nil
    convert: Callable[[Any], Any] | None = None  # instead of least and most: returns the value, or None to refuse it


def integer(name: str, least: int = 0, most: int = U64, *, default: Any = _REQUIRED) -> Field:
    """Want an integer of ``least``..``most``; a boolean is not one."""
    return Field(name, int, f"an integer {least}..{most}", least, most, default)


def optional_number(name: str) -> Field:
    """Want a finite number (any msgpack float or integer), read as a float; None where it is absent or nil."""
    return Field(name, float, "a finite number", default=None)


def boolean(name: str, *, default: Any = _REQUIRED) -> Field:
    """Want a boolean; an integer is not one."""
    return Field(name, bool, "true or false", default=default)


def text(name: str, most: int = MAX_TEXT_BYTES, *, default: Any = _REQUIRED) -> Field:
    """Want text of at most ``most`` UTF-8 bytes."""
    return Field(name, str, f"text of at most {most} bytes", 0, most, default)


def topic_name(name: str) -> Field:
    """Want the name of a station or a camera (see ``is_name``)."""
    expected = f"1..{MAX_NAME_BYTES} of A-Z a-z 0-9 _ -"
    return Field(name, str, expected, convert=lambda found: found if is_name(found) else None)


def choice(name: str, words: Mapping[Any, Any], *, default: Any = _REQUIRED) -> Field:
    """Want one of the texts or integers ``words``, read as what it stands for; ``default`` is one of them."""
    kinds = {type(word) for word in words}
    return Field(name, kinds.pop(), f"one of {list(words)}", default=default, convert=words.get)


def read_fields(header: Mapping[str, Any], fields: Iterable[Field]) -> dict[str, Any]:
    """Return the value of each of ``fields`` by name; the first that is not as expected is refused.

    One loop for all kinds: with a call per field, the calls were most of the time a message took.
    """
    values: dict[str, Any] = {}
    for name, kind, expected, least, most, default, convert in fields:
        value: Any = header.get(name, default)
        found = value
        if found is None and default is None:
            fits = True
        elif kind is float:
            fits = type(found) in (float, int) and math.isfinite(found)
            value = float(found) if fits else None
        elif type(found) is not kind:  # a bool is an int to Python, not to the protocol
            fits = False
        elif convert is not None:
            value = convert(found)
            fits = value is not None
        elif kind is int:
            fits = least <= found <= most
        else:
            fits = kind is bool or len(found.encode("utf-8", "surrogatepass")) <= most
        if not fits:
            raise WireError(
                "field",
                f"{name} is missing" if found is _REQUIRED else f"{name}: expected {expected}, found {_shown(found)}",
            )
        values[name] = value
    return values
