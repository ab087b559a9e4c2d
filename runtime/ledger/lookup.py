"""The writer's questions to its own file: what came before, and what was left open."""

from __future__ import annotations

import sqlite3

from runtime.ledger.chain import GENESIS, Head
from runtime.ledger.records import Earlier, FrameKey, OpenTrigger
from runtime.ledger.schema import COLUMNS, signed, unsigned
from runtime.ledger.totals import Event


def trigger_of_frame(connection: sqlite3.Connection, key: FrameKey) -> int | None:
    """Return the trigger a frame was recorded with, or None."""
    row = connection.execute(
        'SELECT "trigger" FROM frames '
        'WHERE camera = ? AND session = ? AND frame_id = ? AND "trigger" IS NOT NULL',  # as the index says
        key.columns(),
    ).fetchone()
    return None if row is None else int(row[0])


def last_frame_id(connection: sqlite3.Connection, key: FrameKey) -> int:
    """Return the greatest frame id recorded with a trigger in the session of a frame, -1 if there is none."""
    camera, session, _ = key.columns()
    of_session = 'SELECT max(frame_id) FROM frames WHERE camera = ? AND session = ? AND "trigger" IS NOT NULL'
    (found,) = connection.execute(  # an id stored as a negative number is beyond all others
        f"SELECT coalesce(({of_session} AND frame_id < 0), ({of_session}))",
        (camera, session, camera, session),
    ).fetchone()
    return -1 if found is None else unsigned(int(found))


def trigger_of_id(
    connection: sqlite3.Connection, camera: str, trigger_id: int, part_id: str, since_ns: int
) -> int | None:
    """Return the newest trigger of that camera, id and part received at or after ``since_ns``, or None."""
    row = connection.execute(
        "SELECT record FROM triggers WHERE camera = ? AND trigger_id = ? AND part_id = ? AND received_ns >= ? "
        "ORDER BY record DESC LIMIT 1",
        (camera, signed(trigger_id), part_id, signed(since_ns)),
    ).fetchone()
    return None if row is None else int(row[0])


def newest_of_id(connection: sqlite3.Connection, camera: str, trigger_id: int, most: int) -> list[tuple[int, str, int]]:
    """Return the ``most`` newest triggers of that camera and id, newest first: record, part id, when received."""
    rows = connection.execute(
        "SELECT record, part_id, received_ns FROM triggers WHERE camera = ? AND trigger_id = ? "
        "ORDER BY record DESC LIMIT ?",
        (camera, signed(trigger_id), most),
    ).fetchall()
    return [(int(record), str(part_id), unsigned(int(received_ns))) for record, part_id, received_ns in rows]


def answer(connection: sqlite3.Connection, trigger: int) -> Earlier:
    """Return the trigger with its inspection, if it has one."""
    row = connection.execute('SELECT seq, header FROM inspections WHERE "trigger" = ?', (trigger,)).fetchone()
    return Earlier(trigger) if row is None else Earlier(trigger, int(row[0]), bytes(row[1]))


def has_evidence(connection: sqlite3.Connection, seq: int) -> bool:
    """Tell whether evidence of inspection ``seq`` was ever recorded."""
    return connection.execute("SELECT 1 FROM evidence WHERE seq = ?", (seq,)).fetchone() is not None


def last_record(connection: sqlite3.Connection) -> tuple[Head, bool]:
    """Return the newest record over all tables, and whether it is the mark of a station that stopped in order."""
    newest, clean = Head(0, GENESIS), True
    for table in COLUMNS:
        row = connection.execute(f"SELECT record, hash FROM {table} ORDER BY record DESC LIMIT 1").fetchone()  # noqa: S608 -- a constant's names
        if row is not None and row[0] > newest.record:
            newest, clean = Head(int(row[0]), bytes(row[1])), False
    kind = connection.execute("SELECT kind FROM events WHERE record = ?", (newest.record,)).fetchone()
    return newest, clean or kind == (Event.CLOSED.value,)


def open_triggers(connection: sqlite3.Connection, count: int) -> list[OpenTrigger]:
    """Return the ``count`` triggers that have no inspection, oldest first.

    They are among the newest: the search ends when it has them, however long the ledger is.
    """
    rows = connection.execute(
        "SELECT t.record, t.camera, t.trigger_id, t.part_id, t.received_ns, t.deadline_ns, f.session, f.frame_id "
        'FROM triggers t LEFT JOIN frames f ON f."trigger" = t.record '
        'WHERE NOT EXISTS (SELECT 1 FROM inspections i WHERE i."trigger" = t.record) ORDER BY t.record DESC LIMIT ?',
        (max(0, count),),
    ).fetchall()
    return [
        OpenTrigger(
            trigger=record,
            camera=camera,
            trigger_id=None if trigger_id is None else unsigned(trigger_id),
            part_id=part_id,
            received_ns=unsigned(received_ns),
            deadline_ns=unsigned(deadline_ns),
            frame=None if session is None else FrameKey(camera, unsigned(session), unsigned(frame_id)),
        )
        for record, camera, trigger_id, part_id, received_ns, deadline_ns, session, frame_id in reversed(rows)
    ]
