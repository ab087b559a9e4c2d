"""The hash chain: what is hashed, and how one record is linked to the one before.

hash(n) = SHA-256(hash(n - 1) + packed(n)); packed(n) = the msgpack array [table, record, column, ...] in the order of
``schema.COLUMNS``, integers in their shortest form, reals as 64-bit floats, blobs as bin. hash(0) is ``GENESIS``. The
array is typed and has one spelling, so any language with msgpack and SHA-256 can prove a ledger.

A chain proves that nobody changed, removed, inserted or reordered records *and left the rest as it was*. It has no key:
who can write the file can write a whole new chain. What stops that is a witness: ``Head`` written down elsewhere (a
result stream, a shift report) and given to ``check``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgpack

from runtime.errors import LedgerError

GENESIS = bytes(hashlib.sha256().digest_size)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: the number of its last record and that record's hash (32 bytes)."""

    record: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.record}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Return the head that ``str`` wrote. Raises ``LedgerError``."""
        record, _, digest = text.partition(":")
        try:
            head = cls(int(record), bytes.fromhex(digest))
        except ValueError as error:
            raise LedgerError(f"expected <record>:<64 hexadecimal digits>, found {text[:100]!r}") from error
        if head.record < 0 or len(head.hash) != len(GENESIS):
            raise LedgerError(f"expected <record>:<64 hexadecimal digits>, found {text[:100]!r}")
        return head


def link(previous: bytes, table: str, record: int, values: tuple[Any, ...]) -> bytes:
    """Return the hash (32 bytes) of a record after the record whose hash is ``previous``.

    Raises ``LedgerError`` for a value the chain cannot carry (an integer beyond 64 bits, text that is no UTF-8).
    """
    try:
        packed = msgpack.packb([table, record, *values], use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise LedgerError(f"expected integers of 64 bits, floats, text and bytes for {table}: {error}") from error
    return hashlib.sha256(previous + packed).digest()
