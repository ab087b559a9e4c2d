"""Writing records to a file for other programs: CSV or JSON lines, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from runtime.disk import durable
from runtime.errors import ConfigError
from runtime.ledger.errors import told

Rows = Iterable[dict[str, Any]]


def export(path: Path, rows: Rows) -> int:
    """Write ``rows`` (all with the same keys) to ``path``, .csv or .jsonl; return how many there were.

    Raises ``ConfigError`` for another ending, ``LedgerError`` where the file cannot be written.
    """
    write = _FORMATS.get(path.suffix.lower())
    if write is None:
        raise ConfigError(f"expected a file named *{' or *'.join(_FORMATS)}, found {str(path)!r}")
    unfinished = path.with_name(path.name + ".unfinished")
    with told("write", path):
        try:
            with unfinished.open("w", encoding="utf-8", newline="") as stream:
                count = write(stream, rows)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
            durable.sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
    return count


def _write_csv(stream: IO[str], rows: Rows) -> int:
    writer: csv.DictWriter[str] | None = None
    count = 0
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(stream, list(row))
            writer.writeheader()
        writer.writerow({key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()})
        count += 1
    return count


def _write_lines(stream: IO[str], rows: Rows) -> int:
    count = 0
    for row in rows:
        stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        count += 1
    return count


_FORMATS: dict[str, Callable[[IO[str], Rows], int]] = {".csv": _write_csv, ".jsonl": _write_lines}
