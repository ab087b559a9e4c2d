"""Triggers that come ahead of their frames: recorded and timed as they arrive, answered with or without a frame.

``runtime.host.matcher`` says which frame belongs to which trigger; here is what that means for records, lanes and
receipts. Every trigger gets exactly one answer: its frame's, or NotDecidable with a word that says why there is none.
A frame that answers no trigger is recorded as dropped and refused, with the same word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from runtime.changing.route import UNKNOWN
from runtime.errors import WireError
from runtime.frame import FrameHeader, PixelFormat
from runtime.host.demands import Demands, Desk, Roads, expect_same
from runtime.host.matcher import LATE, NO_TRIGGER, SECOND, Held, Joined, Matcher, Open, is_same
from runtime.host.publication import Asker, Demand, add_asker
from runtime.host.records import Records
from runtime.inspection import ErrorWord
from runtime.lane.lane import Answer, Lane
from runtime.ledger.records import Earlier, Unread
from runtime.ledger.writer import DUPLICATE
from runtime.station.config import Camera
from runtime.trigger import TriggerHeader

#: Why nothing is inspected while the ledger cannot be read.
UNREAD_DETAIL = "the ledger cannot be read: it is not known whether this came before"
#: What a refused frame is told, for the log.
_WHY = {
    NO_TRIGGER: "expected a trigger ahead of the frame, found none: raise it, or set `triggers: with_frame`",
    LATE: "its trigger was answered before it came",
    SECOND: "its trigger has another frame already",
}
#: Why a frame is not inspected that may be another part's; True: it names no trigger.
_UNSURE = {
    True: "the order of frames and triggers was lost with an earlier frame: this may be another part's",
    False: "the trigger's id was used before, and that frame had not come: this may be it",
}


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame as it came in. ``pixels``: the message's own memory; ``askers``: who sent it, again where it was held."""

    header: FrameHeader
    pixels: memoryview
    received_ns: int
    askers: list[Asker]


class Ahead:
    """The cameras of a station whose triggers come ahead. ``refuse``: tells a sender, and counts it."""

    def __init__(
        self, roads: Roads, desk: Desk, demands: Demands, refuse: Callable[[bytes, FrameHeader, WireError], None]
    ) -> None:
        self.records = Records()
        self._roads = roads
        self._desk = desk
        self._demands = demands
        self._refuse = refuse
        self._matchers: dict[str, Matcher] = {}
        self._last: dict[str, Lane] = {}  # where a camera's triggers are answered when the camera is taken out

    @property
    def waiting(self) -> int:
        """Triggers without their frame and frames without their trigger."""
        return sum(each.waiting + len(each.held) for each in self._matchers.values())

    def status(self, camera: str) -> dict[str, int]:
        """Return how many triggers and frames of a camera wait for their other half."""
        matcher = self._matchers.get(camera)
        waiting, held = (matcher.waiting, len(matcher.held)) if matcher else (0, 0)
        return {"triggers_waiting": waiting, "frames_held": held}

    # --- triggers -----------------------------------------------------------------------------------------------

    def raise_trigger(self, identity: bytes, header: TriggerHeader, received_ns: int, now_ns: int) -> None:
        """Take a trigger of a known camera; its deadline runs from now. Raises ``WireError`` to refuse it."""
        camera = self._lane(header.camera).camera
        if camera.triggers != "ahead":
            raise WireError("not_ahead", f"cameras.{header.camera}.triggers is {camera.triggers}, expected ahead")
        self._advance(header.camera, now_ns)
        asker = Asker(identity, trigger_id=header.trigger_id)
        waiting = self._demands.ahead(header.camera, header.trigger_id)
        if waiting is not None and waiting.ahead is not None and is_same(waiting.ahead.header, header):
            add_asker(waiting.askers, asker)
            return
        deadline_ms = min(camera.deadline_ms, header.deadline_ms or camera.deadline_ms)
        number = self.records.raise_trigger(header, received_ns, deadline_ms)
        if isinstance(number, Earlier):
            self._demands.answer_again(number, asker)
            return
        recipe = header.recipe or self._roads.recipe_now(header.camera)
        deadline_ns = now_ns + deadline_ms * 1_000_000
        recorded = number.trigger if isinstance(number, Unread) else number
        trigger = Open(recorded, header, received_ns, now_ns, deadline_ns, recipe)
        self._demands.begin(recorded, Demand([asker], trigger))
        matcher = self._matcher(header.camera, camera)
        word, detail = self._why_not(trigger, matcher, is_taken=waiting is not None)
        if isinstance(number, Unread):
            word, detail = ErrorWord.DISK_FULL, UNREAD_DETAIL
        trigger = replace(trigger, is_answered=word is not None)
        matcher.add(trigger)  # answered or not: its frame must not become another's
        if word is not None:
            self._answer(trigger, word, detail, now_ns)
        if (claimed := matcher.claimed(trigger)) is not None:
            self._settle(claimed[0].load, claimed[1], now_ns)

    def _why_not(self, trigger: Open, matcher: Matcher, *, is_taken: bool) -> tuple[ErrorWord | None, str]:
        """Return why a trigger cannot wait for its frame; ``is_taken``: another one of its id does."""
        header = trigger.header
        if self._desk.is_stopping:
            return ErrorWord.STOPPING, "the station is stopping"
        if is_taken:
            detail = f"trigger {header.trigger_id} is open for another part: ids must differ until they are answered"
            return ErrorWord.BAD_COMMAND, detail
        if self._roads.lane(header.camera, trigger.recipe) is None:
            return ErrorWord.BAD_COMMAND, unknown_recipe(self._roads, header.camera, trigger.recipe)
        if matcher.is_full:
            detail = f"{matcher.waiting} triggers already wait for their frames, the limit is {matcher.most}"
            return ErrorWord.OVERLOAD, detail
        return None, ""

    # --- frames -------------------------------------------------------------------------------------------------

    def take_frame(
        self, identity: bytes, header: FrameHeader, pixels: memoryview, received_ns: int, now_ns: int
    ) -> None:
        """Take a frame of a known camera: to its trigger, or hold it, or drop it. Raises ``WireError`` to refuse it."""
        matcher = self._matcher(header.camera, self._lane(header.camera).camera)
        self._advance(header.camera, now_ns)
        asker = Asker(identity, header.session, header.frame_id, header.acquired_ns)
        earlier = self.records.earlier_frame(header, received_ns)
        if earlier is not None:
            self._demands.answer_again(earlier, asker)
            return
        for held in matcher.held:
            if (held.header.session, held.header.frame_id) == (header.session, header.frame_id):
                expect_same(asker, held.header.session, held.header.frame_id, held.header.acquired_ns)
                self.records.drop(header, received_ns, DUPLICATE)
                add_asker(held.load.askers, asker)
                return
        arrived = Arrived(header, pixels, received_ns, [asker])
        outcome = matcher.match(header, now_ns)
        if outcome is None:
            outcome = None if matcher.hold(header, now_ns, arrived) else self._word(header)
        if outcome is not None:
            self._settle(arrived, outcome, now_ns)
        self._advance(header.camera, now_ns)  # a gap in the numbers tells of triggers without frame

    def _settle(self, frame: Arrived, outcome: Joined | str, now_ns: int) -> None:
        if isinstance(outcome, str):
            self._drop(frame, outcome)
            return
        trigger, header = outcome.trigger, frame.header
        try:
            self.records.join(trigger.number, header, frame.received_ns)
        except WireError as error:
            for asker in frame.askers:
                self._refuse(asker.identity, header, error)
            self._answer(trigger, ErrorWord.DISK_FULL, "the frame could not be recorded", now_ns)
            return
        for asker in frame.askers:
            add_asker(self._demands.of(trigger.number).askers, asker)
        word, detail = _contradiction(trigger.header, header)
        if word is not None:
            self._matchers[header.camera].lose_step()
        elif not outcome.sure:
            word, detail = ErrorWord.CAMERA_LOST, _UNSURE[header.trigger_id is None]
        header = _merged(trigger.header, header)
        recipe = header.recipe or trigger.recipe
        lane = self._roads.lane(header.camera, recipe)
        if word is None and lane is None:  # the frame names another one, or it was there when the trigger came
            word, detail = ErrorWord.BAD_COMMAND, unknown_recipe(self._roads, header.camera, recipe)
        lane = self._lane(header.camera) if lane is None else lane
        number, received_ns = trigger.number, frame.received_ns
        answer: Answer | None
        if word is not None:
            answer = lane.refuse(header, number, now_ns, received_ns, word=word, detail=detail)
        else:
            answer = lane.take(header, frame.pixels, number, now_ns, received_ns, deadline_ns=trigger.deadline_ns)
        if answer is not None:
            self._desk.take_answer(lane, answer, frame.pixels)
        else:
            lane.dispatch(now_ns)

    def _drop(self, frame: Arrived, word: str) -> None:
        """Record a frame that answers no trigger, and tell who sent it."""
        self.records.drop(frame.header, frame.received_ns, word)
        for asker in frame.askers:
            self._refuse(asker.identity, frame.header, WireError(word, _WHY[word]))

    def _word(self, header: FrameHeader) -> str:
        """Return what a frame is told that no trigger of this run claimed."""
        trigger_id = header.trigger_id
        is_known = trigger_id is not None and self.records.knows_trigger(header.camera, trigger_id)
        return LATE if is_known else NO_TRIGGER

    # --- time ---------------------------------------------------------------------------------------------------

    def advance(self, now_ns: int) -> None:
        """Answer the triggers whose frame did not come in time, and the frames whose trigger did not."""
        for camera in list(self._matchers):
            self._advance(camera, now_ns)

    def next_due_ns(self) -> int | None:
        """Return when ``advance`` next has something to do, or None."""
        due = (each.next_due_ns() for each in self._matchers.values())
        return min((at for at in due if at is not None), default=None)

    def close(self, now_ns: int) -> None:
        """Answer everything that still waits: the station ends."""
        for matcher in self._matchers.values():
            self._drain(matcher, "the station is stopping", now_ns)

    def _drain(self, matcher: Matcher, detail: str, now_ns: int) -> None:
        triggers, frames = matcher.drained()
        for trigger in triggers:
            self._answer(trigger, ErrorWord.STOPPING, detail, now_ns)
        self._turn_away(frames)

    def _advance(self, camera: str, now_ns: int) -> None:
        matcher = self._matchers.get(camera)
        if matcher is None:
            return
        if camera not in self._roads.cameras():
            del self._matchers[camera]
            self._drain(matcher, "the camera was taken out of the station file", now_ns)
            return
        for trigger in matcher.expired(now_ns):
            waited_ms = (now_ns - trigger.admitted_ns) // 1_000_000
            detail = f"no frame within {waited_ms} ms of the trigger"
            self._answer(trigger, ErrorWord.CAMERA_LOST, detail, now_ns)
        stays = not self._desk.is_stopping or matcher.waiting > 0
        self._turn_away(matcher.unclaimed(now_ns) if stays else matcher.drained()[1])

    def _turn_away(self, frames: list[Held]) -> None:
        for held in frames:
            self._drop(held.load, self._word(held.header))

    def _answer(self, trigger: Open, word: ErrorWord, detail: str, now_ns: int) -> None:
        """Answer a trigger that has no frame."""
        header = trigger.header
        lane = self._lane(header.camera, trigger.recipe)
        nothing = FrameHeader(header.camera, 0, 0, 0, 0, PixelFormat.MONO8, 0)
        merged = _merged(header, nothing)
        answer = lane.refuse(
            merged, trigger.number, now_ns, trigger.received_ns, word=word, detail=detail, framed=False
        )
        self._desk.take_answer(lane, answer)

    def _lane(self, camera: str, recipe: str = "") -> Lane:
        """Return the lane where a camera's trigger is answered: of its recipe, its own product, or the last it had."""
        if camera in self._roads.cameras():
            lane = self._roads.lane(camera, recipe) or self._roads.lane(camera, "")
            if lane is not None:
                self._last[camera] = lane
        if camera not in self._last:
            raise WireError("unknown_camera", f"expected a camera of the station, found {camera!r}")
        return self._last[camera]

    def _matcher(self, name: str, camera: Camera) -> Matcher:
        matcher = self._matchers.get(name)
        if matcher is None:
            early_ns = camera.early_ms * 1_000_000
            matcher = Matcher(by_order=camera.match == "order", most=camera.queue, early_ns=early_ns)
            self._matchers[name] = matcher
        matcher.most = camera.queue
        return matcher


def unknown_recipe(roads: Roads, camera: str, recipe: str) -> str:
    """Return the sentence for a recipe that a camera does not have."""
    if not recipe or recipe == UNKNOWN:
        return (
            f"camera {camera}: the recipe picked before is not known any more: pick one with `edgead recipe`, "
            "or name it in every frame or trigger"
        )
    known = ", ".join(roads.recipes(camera)) or "none"
    return f"expected a recipe of cameras.{camera}.recipes ({known}), found {recipe!r}"


def _contradiction(said: TriggerHeader, frame: FrameHeader) -> tuple[ErrorWord | None, str]:
    """Return the error word, and the sentence, where a trigger and its frame say different things."""
    pairs = (("part_id", said.part_id, frame.part_id), ("recipe", said.recipe, frame.recipe))
    for name, of_trigger, of_frame in pairs:
        if of_trigger and of_frame and of_trigger != of_frame:
            return ErrorWord.BAD_COMMAND, f"{name}: the trigger says {of_trigger!r}, its frame {of_frame!r}"
    return None, ""


def _merged(said: TriggerHeader, frame: FrameHeader) -> FrameHeader:
    """Return the frame's header with what its trigger says."""
    return replace(
        frame,
        trigger_id=said.trigger_id,
        part_id=said.part_id or frame.part_id,
        recipe=said.recipe or frame.recipe,
        simulated=said.simulated or frame.simulated,
    )
