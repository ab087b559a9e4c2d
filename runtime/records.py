"""What the host writes down of its work, a turn of its loop at a time: here nothing but the numbers of one run.

``runtime.ledger_records`` writes the same to the ledger. Times named ``now_ns`` are monotonic nanoseconds, others UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runtime.frame import FrameHeader
from runtime.header import Buffer
from runtime.inspection import Inspection
from runtime.lane import Lane
from runtime.ledger.records import Earlier, OpenTrigger
from runtime.wire import encode_result


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

    def admit(self, header: FrameHeader, received_ns: int, deadline_ms: int) -> int | Earlier:
        """Take a frame as a trigger and return its number, never used twice; or what it repeats.

        Raises ``WireError`` (``unrecorded``) when it could not be recorded for too long.
        """
        del header, received_ns, deadline_ms
        self._triggers += 1
        return self._triggers

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

    def end_turn(self, now_ns: int, lanes: Iterable[Lane], *, results: bool) -> None:
        """Write down what the turn brought; at once if ``results`` wait to be sent."""

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
