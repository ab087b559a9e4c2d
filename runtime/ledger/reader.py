"""Reading a ledger from any process, beside its running writer: what ``edgead ledger show|export`` and replay use."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runtime.errors import LedgerError
from runtime.inspection import ErrorWord, Verdict
from runtime.ledger.anchor import Anchor, read_anchor
from runtime.ledger.chain import Head
from runtime.ledger.errors import told
from runtime.ledger.records import FrameKey, Kept
from runtime.ledger.schema import open_reader, unsigned

#: A number SQLite can hold.
_SEQ = re.compile(r"[0-9]{1,18}")
#: Rows fetched by one query: between two the writer's log can be checkpointed, however slow the reader is.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class StoredInspection:
    """One inspection as recorded. ``header``: the result's header part as sent (``wire.decode_result`` reads it).

    ``frame`` is None where a trigger got no frame, or retention has removed the frame's record already.
    """

    record: int
    seq: int
    result_id: str
    camera: str
    part_id: str
    verdict: Verdict
    error: ErrorWord
    score: float | None
    product: str
    detector: str
    detector_version: str
    template: str
    received_ns: int
    published_ns: int
    latency_us: int
    header: bytes
    frame: FrameKey | None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as recorded; ``kind`` is a word of ``totals.Event``, ``at_ns`` UTC nanoseconds."""

    record: int
    kind: str
    at_ns: int
    detail: dict[str, Any]


class Reader:
    """A ledger open for reading; a context manager. Every method may raise ``LedgerError``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_reader(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def head(self) -> tuple[str, Head, int, Counter[str]]:
        """Return station, head of the chain, last ``seq`` and the totals of everything ever recorded."""
        station, record, seq, digest, totals = self._all("SELECT station, record, seq, hash, totals FROM head")[0]
        return station, Head(record, digest), seq, Counter(json.loads(totals))

    def anchor(self) -> Anchor:
        """Return what retention has removed."""
        with told("read", self.path):
            return read_anchor(self._connection)

    def inspection(self, seq: int) -> StoredInspection | None:
        """Return inspection ``seq``, or None if there is none (any more)."""
        return next(iter(self._inspections("i.seq = ?", (seq,))), None)

    def inspection_of(self, result_id: str) -> StoredInspection | None:
        """Return the inspection of that ``result_id``, or None. Reads the whole table: ``seq`` is the quick way."""
        return next(iter(self._inspections("i.result_id = ?", (result_id,))), None)

    def inspections(self, *, after: int = 0, verdict: Verdict | None = None) -> Iterator[StoredInspection]:
        """Yield the inspections after ``seq`` = ``after`` in order, those of one verdict if one is given."""
        where, values = ("", ()) if verdict is None else (" AND i.verdict = ?", (int(verdict),))
        while page := self._inspections(f"i.seq > ?{where}", (after, *values)):
            yield from page
            after = page[-1].seq

    def events(self, *, after: int = 0, kind: str | None = None) -> Iterator[StoredEvent]:
        """Yield the events after record ``after`` in order, those of one kind if one is given."""
        while page := self._all(
            "SELECT record, kind, at_ns, detail FROM events WHERE record > ? AND (? IS NULL OR kind = ?) "
            "ORDER BY record LIMIT ?",
            (after, kind, kind, _PAGE),
        ):
            for record, word, at_ns, detail in page:
                yield StoredEvent(record, word, unsigned(at_ns), json.loads(detail))
            after = page[-1][0]

    def evidence(self, seq: int) -> Kept | None:
        """Return the evidence of inspection ``seq`` (read it with ``evidence.read``), or None if none is kept."""
        statement = "SELECT seq, verdict, bytes, sha256 FROM evidence WHERE seq = ? AND removed_by IS NULL"
        rows = self._all(statement, (seq,))
        return Kept(rows[0][0], Verdict(rows[0][1]), rows[0][2], rows[0][3]) if rows else None

    def _inspections(self, where: str, values: tuple[Any, ...]) -> list[StoredInspection]:
        rows = self._all(
            f'SELECT {_COLUMNS} FROM inspections i LEFT JOIN frames f ON f."trigger" = i."trigger" '  # noqa: S608 -- constants
            f"WHERE {where} ORDER BY i.seq LIMIT {_PAGE}",
            values,
        )
        return [_stored(row) for row in rows]

    def _all(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with told("read", self.path):
            return self._connection.execute(statement, values).fetchall()


def find(reader: Reader, result: str) -> StoredInspection:
    """Return the inspection named by a ``result_id`` or a ``seq``. Raises ``LedgerError`` if there is none."""
    number = result.rpartition("-")[2]  # a result id ends in its seq: no need to read the whole table
    found = reader.inspection(int(number)) if _SEQ.fullmatch(number) else None
    if found is None or result not in (number, found.result_id):
        found = reader.inspection_of(result)
    if found is None:
        raise LedgerError(
            f"{reader.path}: expected inspection {result[:100]}, found none: it is no result of this station, or older "
            "than its records; `edgead ledger show` lists the last ones"
        )
    return found


def head_of(path: Path) -> dict[str, Any]:
    """Return station, head of the chain (a witness), last ``seq`` and totals; empty if the file does not tell."""
    try:
        with Reader(path) as reader:
            station, head, seq, totals = reader.head()
    except (LedgerError, LookupError, TypeError, ValueError):  # damaged: ``check`` says how
        return {}
    return {"station": station, "head": str(head), "seq": seq, "totals": dict(sorted(totals.items()))}


def _stored(row: tuple[Any, ...]) -> StoredInspection:
    columns: dict[str, Any] = dict(zip(_FIELDS, row, strict=False))
    session, frame_id = row[len(columns) :]
    columns["verdict"], columns["error"] = Verdict(columns["verdict"]), ErrorWord(columns["error"])
    columns["received_ns"], columns["published_ns"] = (
        unsigned(columns["received_ns"]),
        unsigned(columns["published_ns"]),
    )
    frame = None if session is None else FrameKey(columns["camera"], unsigned(session), unsigned(frame_id))
    return StoredInspection(**columns, frame=frame)


#: What a stored inspection has besides its frame.
_FIELDS = tuple(field.name for field in fields(StoredInspection))[:-1]
_COLUMNS = ", ".join((*(f"i.{name}" for name in _FIELDS), "f.session", "f.frame_id"))
