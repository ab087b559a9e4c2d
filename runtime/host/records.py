"""What the host writes down of its work, a turn of its loop at a time: here nothing but the numbers of one run.

``runtime.host.ledger_records`` writes the same to the ledger. Times named ``now_ns`` are monotonic nanoseconds, others
UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.frame import FrameHeader
from runtime.inspection import Inspection
from runtime.ledger import Event
from runtime.ledger.records import Earlier, OpenTrigger, Unread
from runtime.trigger import TriggerHeader
from runtime.wire.header import Buffer
from runtime.wire.messages import encode_result

#: What happened beside the inspections: kind and detail of ledger events.
News = Sequence[tuple[Event, dict[str, Any]]]


class Records:
    """The records of a station without a ledger: triggers and inspections are numbered from 1 in every run."""

    #: Whether results must wait for ``end_turn``.
    durable = False

    def __init__(self) -> None:
        self._triggers = 0
        self._seq = 0

    @property
    def next_seq(self) -> int:
        """The ``seq`` the next inspection must carry."""
        return self._seq + 1

    @property
    def written_seq(self) -> int:
        """The last ``seq`` that a killed host would still know."""
        return 0

    def left_open(self) -> list[OpenTrigger]:
        """Return the triggers without inspection, oldest first."""
        return []

    def admit(self, header: FrameHeader, received_ns: int, deadline_ms: int) -> int | Earlier | Unread:
        """Take a frame as a trigger and return its number, never used twice; or what it repeats.

        ``enter`` is to follow for one that has a number, before anything else is recorded. ``Unread``: whether it
        repeats anything cannot be found out now; it needs no ``enter``.

        Raises ``WireError`` (``unrecorded``) when it could not be recorded for too long.
        """
        del header, received_ns, deadline_ms
        self._triggers += 1
        return self._triggers

    def enter(self, number: int, header: FrameHeader, received_ns: int, deadline_ms: int) -> None:
        """Record a frame that ``admit`` gave a number: apart from that, so that its worker can begin meanwhile."""

    def raise_trigger(self, header: TriggerHeader, received_ns: int, deadline_ms: int) -> int | Earlier | Unread:
        """Take a trigger that comes ahead of its frame and return its number; or the one it repeats.

        Raises ``WireError`` (``unrecorded``) as ``admit`` does.
        """
        del header, received_ns, deadline_ms
        self._triggers += 1
        return self._triggers

    def earlier_frame(self, header: FrameHeader, received_ns: int) -> Earlier | None:
        """Return the trigger this very frame came for before, and record that it came again; None if it is new.

        Raises ``WireError`` (``unrecorded``) when that cannot be found out.
        """

    def join(self, number: int, header: FrameHeader, received_ns: int) -> None:
        """Record the frame of an open trigger. Raises ``WireError`` (``unrecorded``)."""

    def drop(self, header: FrameHeader, received_ns: int, reason: str) -> None:
        """Record a frame that is not inspected and answers no trigger, and why."""

    def knows_trigger(self, camera: str, trigger_id: int) -> bool:
        """Tell whether a trigger of that id was ever raised, in an earlier run too."""
        del camera, trigger_id
        return False

    def inspect(self, number: int, inspection: Inspection) -> list[bytes]:
        """Take the one answer to a trigger; return the first two parts of its result message."""
        del number
        self._seq = inspection.seq
        return encode_result(inspection)

    def keeps(self, inspection: Inspection) -> bool:
        """Tell whether the evidence of an inspection is wanted."""
        del inspection
        return False

    def keep(self, inspection: Inspection, header: FrameHeader, payloads: Mapping[str, Buffer]) -> None:
        """Have the evidence of an inspection written in due time; ``payloads`` are copied now."""

    def refuse(self, reason: str) -> None:
        """Count a refused message."""

    def note(self, news: News) -> None:
        """Take what happened besides."""

    def write(self, now_ns: int) -> None:
        """Write down all there is, now: results wait to be sent."""

    def end_turn(self, now_ns: int) -> None:
        """Do what nobody waits for, and write down what the turn brought if it is time to."""

    def clean(self, now_ns: int, *, quiet: bool) -> None:
        """Remove a little of what is too old or too much, if it is time to; ``quiet``: the turn had nothing to do."""

    def next_due_ns(self) -> int | None:
        """Return when ``end_turn`` or ``clean`` next has something to do, or None."""
        return None

    def status(self) -> dict[str, Any] | None:
        """Return the ledger's part of the status."""
        return None

    def close(self) -> None:
        """Write everything that is left."""
