r"""The ref log: who made, imported, activated or rolled back which template, when and why; one JSON line each.

``log/<product>/<detector>.jsonl`` is only ever appended to. Each line carries the check of the line before
(``previous``) and its own (``check``, sha256 of the line without it), so a flipped byte or a lost line is seen.

An entry is synced before its ref moves, so the log may know one move more than happened (a crash in between), never one
less. ``replay`` tells: the next entry's ``old``, or the ref itself, still is the old digest. A torn last line (no
newline) is the write that a crash cut short; it is ignored when reading and cut off by the next append.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from runtime.disk import canonical, durable
from runtime.errors import TemplateError
from runtime.store.manifest import Digest, Record, describe
from runtime.store.objects import digest_of

Action = Literal["create", "import", "activate", "rollback"]
#: The actions that move the active ref; the others only list a template.
MOVES = frozenset({"activate", "rollback"})


class LogEntry(Record):
    """One line. ``time``: RFC 3339, UTC, milliseconds. ``old``: what was active before a move (None: nothing)."""

    time: str
    who: Annotated[str, Field(min_length=1, max_length=200)]
    action: Action
    old: Digest | None
    new: Digest
    why: Annotated[str, Field(max_length=2000)]
    previous: Digest | None
    check: Digest


@dataclass(frozen=True)
class RefLog:
    """What a log file holds: its entries, how many bytes they take, and whether a torn line follows them."""

    entries: tuple[LogEntry, ...]
    sound_bytes: int
    torn: bool

    @property
    def moves(self) -> tuple[LogEntry, ...]:
        """The entries that move the active ref."""
        return tuple(entry for entry in self.entries if entry.action in MOVES)


@dataclass(frozen=True)
class Replay:
    """What the log's moves come to.

    ``stack``: templates activated one after another, the last one active now; a rollback drops one. ``interrupted``:
    moves that a crash cut short before the ref moved.
    """

    stack: tuple[str, ...]
    interrupted: tuple[LogEntry, ...]


def read_log(path: Path) -> RefLog:
    """Return the log's entries, none if there is no file. Raises ``TemplateError`` naming the first damaged line."""
    with durable.translated("read", path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
    *lines, tail = data.split(b"\n")
    entries: list[LogEntry] = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(_entry(line, entries[-1].check if entries else None, f"{path}: line {number}"))
        except TemplateError as error:
            raise TemplateError(f"{error}; {_ADVICE}") from error
    return RefLog(tuple(entries), len(data) - len(tail), bool(tail))


def append(path: Path, *, action: Action, who: str, old: str | None, new: str, why: str) -> LogEntry:
    """Add an entry and sync it. Raises ``TemplateError``; then the log is as it was, less a torn last line."""
    log = read_log(path)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    previous = log.entries[-1].check if log.entries else None
    fields = {"time": now, "who": who, "action": action, "old": old, "new": new, "why": why, "previous": previous}
    line = canonical.encode(fields | {"check": digest_of(canonical.encode(fields))})
    entry = _entry(line, previous, "new log entry")
    durable.make_folder(path.parent)
    with durable.translated("append to", path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(handle, log.sound_bytes)
            durable.write_all(handle, line + b"\n")
            os.fsync(handle)
            durable.sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, log.sound_bytes)
            raise
        finally:
            os.close(handle)
    return entry


def replay(log: RefLog, active: str | None) -> Replay:
    """Return what the log's moves come to, given the digest the active ref holds now."""
    stack: tuple[str, ...] = ()
    before = stack
    interrupted: list[LogEntry] = []
    last: LogEntry | None = None
    for entry in log.moves:
        if last is not None and entry.old == last.old:
            interrupted.append(last)
            stack = before
        before = stack
        if entry.old is not None and stack[-1:] != (entry.old,):
            stack = (*stack, entry.old)  # moved without the log, by someone restoring files
        steps_back = entry.action == "rollback" and stack[-2:-1] == (entry.new,)
        stack = stack[:-1] if steps_back else (*stack, entry.new)
        last = entry
    if last is not None and active == last.old:
        interrupted.append(last)
        stack = before
    if active is not None and stack[-1:] != (active,):
        stack = (*stack, active)
    return Replay(stack, tuple(interrupted))


def _entry(line: bytes, previous: str | None, where: str) -> LogEntry:
    value = canonical.decode(line, where)
    check = value.pop("check", None) if isinstance(value, dict) else None
    if check is None or check != digest_of(canonical.encode(value)):
        raise TemplateError(f"{where}: expected a line that fits its own check, found another")
    if value.get("previous") != previous:
        raise TemplateError(f"{where}: expected to follow check {previous}, found {value.get('previous')}")
    try:
        return LogEntry.model_validate_json(line)
    except ValidationError as error:
        raise TemplateError(f"{where}: {describe(error)}") from error


_ADVICE = "the ref log is damaged: move the file aside (it stays readable) and activate again, a new log begins"
