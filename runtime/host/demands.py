"""The triggers without answer, and the desk that gives the answers out: what all ways into the host share."""

from __future__ import annotations

import logging
from typing import Protocol

from runtime.errors import WireError
from runtime.host.publication import Asker, Demand, add_asker
from runtime.inspection import ErrorWord, Inspection
from runtime.lane.lane import Answer, Lane
from runtime.ledger.records import Earlier
from runtime.wire.messages import Receipt, decode_inspection

log = logging.getLogger("edgead.host")


class Desk(Protocol):
    """Where answers go: they are written down, then sent."""

    @property
    def is_stopping(self) -> bool:
        """Whether what comes in now is only answered, not inspected."""

    def take_answer(self, lane: Lane, answer: Answer, pixels: memoryview | None = None) -> None:
        """Publish the answer to a frame; ``pixels``: the frame's, where the lane has not taken them in."""

    def repeat(self, inspection: Inspection, asker: Asker) -> None:
        """Send one more receipt of an inspection published earlier."""

    def send_receipt(self, identity: bytes, receipt: Receipt) -> None:
        """Send a receipt now."""


class Roads(Protocol):
    """The cameras of a station, and the lane on duty for each of their recipes."""

    def cameras(self) -> list[str]:
        """Return the cameras' names."""

    def recipes(self, camera: str) -> list[str]:
        """Return the recipes of a known camera, without its own product."""

    def recipe_now(self, camera: str) -> str:
        """Return the recipe of frames and triggers that name none; empty for the camera's own product.

        Where nobody knows it any more this is a name no recipe has.
        """

    def lane(self, camera: str, recipe: str) -> Lane | None:
        """Return the lane on duty for a recipe of a known camera; None if it has no such recipe."""


class Demands:
    """Triggers by the number of their record, until each has its answer; triggers ahead of frames also by their id."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open: dict[int, Demand] = {}
        self._ahead: dict[tuple[str, int], int] = {}

    def begin(self, number: int, demand: Demand) -> None:
        """Take a trigger that has just been recorded."""
        self._open[number] = demand
        if demand.ahead is not None:
            self._ahead.setdefault((demand.ahead.header.camera, demand.ahead.header.trigger_id), number)

    def of(self, number: int) -> Demand:
        """Return a trigger that is open."""
        return self._open[number]

    def ahead(self, camera: str, trigger_id: int) -> Demand | None:
        """Return the open trigger of that id that came ahead of its frame, whether that has come or not."""
        number = self._ahead.get((camera, trigger_id))
        return None if number is None else self._open[number]

    def answered(self, number: int) -> Demand:
        """Forget a trigger that has its answer; return who gets a receipt of it."""
        demand = self._open.pop(number)
        if demand.ahead is not None:
            key = (demand.ahead.header.camera, demand.ahead.header.trigger_id)
            if self._ahead.get(key) == number:
                del self._ahead[key]
        return demand

    def answer_again(self, earlier: Earlier, asker: Asker) -> None:
        """Give a message that repeats an earlier one the first one's answer, now or when there is one.

        Raises ``WireError`` for another frame under a name used before: the old answer is not about this part; and
        where the ledger has lost the first one's answer.
        """
        if earlier.header is None:
            if earlier.trigger not in self._open:
                raise WireError(
                    "unrecorded", f"expected the answer to trigger {earlier.trigger} in the ledger, found none"
                )
            askers = self._open[earlier.trigger].askers
            for first in (each for each in askers if each.trigger_id is None):
                expect_same(asker, first.session, first.frame_id, first.acquired_ns)
            add_asker(askers, asker)
            return
        inspection = decode_inspection(earlier.header)
        if inspection.error is not ErrorWord.HOST_LOST:  # of that frame nothing is known but its name
            expect_same(asker, inspection.session, inspection.frame_id, inspection.acquired_ns)
        self._desk.repeat(inspection, asker)


def expect_same(asker: Asker, session: int, frame_id: int, acquired_ns: int) -> None:
    """Refuse a frame that has an earlier one's name but was acquired at another time; a repeated trigger may differ."""
    same_name = asker.trigger_id is None and (asker.session, asker.frame_id) == (session, frame_id)
    if same_name and asker.acquired_ns != acquired_ns:
        raise WireError(
            "frame_reused",
            f"frame {frame_id} of session {session} was acquired at {acquired_ns}, expected it sent again, found "
            f"another one of {asker.acquired_ns}: a camera that starts anew needs a new session",
        )
