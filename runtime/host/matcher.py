"""Which frame belongs to which trigger, where triggers come ahead of their frames: no sockets, ledger or clocks here.

Rules, for one camera:

* A trigger waits for its frame until its deadline; ``expired`` gives it back without one. Each leaves exactly once.
* A frame with a ``trigger_id`` joins the open trigger of that id, in any order. One without joins the oldest open
  trigger where the camera matches by order; elsewhere it belongs to nobody.
* An id raised again within two deadlines, while the frame of its last use has not come, names two parts: such a join
  is ``sure`` only where the part id, or a clock that can be compared, says whose frame it is.
* A frame without a trigger may have overtaken it: it is held for ``early_ns``, at most ``most`` at a time.
* **Order is trusted only while it is known.** It is lost when a trigger got no frame, or the camera began anew with
  triggers open: the next frame may then be the late one. Until order is known again a join is not ``sure``, and the
  caller must not let a detector decide it. It is known again when the frame was acquired, by a clock that can be
  compared, after its trigger was raised and no other trigger is open; or when nothing came for a whole deadline after
  the last frame could be late. So a frame without id or such a clock must come within two deadlines, or never.
* A gap in ``frame_id`` tells of frames lost on their way: where order counts, as many of the oldest triggers are due
  at once. A frame numbered below an earlier one is late.
* A trigger that was answered at once (overload, ...) stays, marked ``is_answered``, to take its frame away when that
  comes.

Times named ``*_ns`` are monotonic nanoseconds, but for those of the headers and ``raised_utc_ns``.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from runtime.frame import Clock, FrameHeader
from runtime.trigger import TriggerHeader

#: Words for a frame that cannot be inspected: nobody raised its trigger, that is answered, or that has a frame.
NO_TRIGGER, LATE, SECOND = "no_trigger", "late", "second"
#: Trigger ids answered lately, by which a frame that comes after is told apart from one that came too early.
MOST_RECENT = 1024


def is_same(waiting: TriggerHeader, header: TriggerHeader) -> bool:
    """Tell whether a trigger under the id of one that is open is that one sent again, not another part's."""
    times = {waiting.raised_ns, header.raised_ns} - {None}
    return (waiting.part_id, waiting.recipe) == (header.part_id, header.recipe) and len(times) <= 1


@dataclass(frozen=True, slots=True)
class Open:
    """A trigger that waits for its frame. ``number``: of its record; ``received_ns``: UTC.

    ``recipe``: the one asked for, or that was current when the trigger came; empty for the camera's own product.
    """

    number: int
    header: TriggerHeader
    received_ns: int
    admitted_ns: int
    deadline_ns: int
    recipe: str = ""
    is_answered: bool = False

    @property
    def raised_utc_ns(self) -> int:
        """When it was raised, UTC, as well as is known: a source's own counter cannot be compared."""
        raised = self.header.raised_ns
        return self.received_ns if raised is None or self.header.clock is Clock.CAMERA else raised


@dataclass(frozen=True, slots=True)
class Held:
    """A frame that waits for its trigger. ``load``: whatever the caller needs to take it in later."""

    header: FrameHeader
    due_ns: int
    load: Any


class Joined(NamedTuple):
    """A trigger that has its frame; not ``sure``: it may be another part's."""

    trigger: Open
    sure: bool


class Matcher:
    """The open triggers and the early frames of one camera."""

    def __init__(self, *, by_order: bool, most: int, early_ns: int) -> None:
        self.most = most
        self._by_order = by_order
        self._early_ns = early_ns
        self._open: OrderedDict[int, Open] = OrderedDict()  # by record number: in the order they came
        self._held: list[Held] = []
        #: By id: the word for its frame, and until when that may come.
        self._recent: OrderedDict[int, tuple[str, int]] = OrderedDict()
        #: Triggers, by record number, whose id was used before for a frame that has not come.
        self._reused: set[int] = set()
        self._in_step = True
        #: Whether the numbers of frames tell which are missing: the last one was surely its trigger's.
        self._counts = False
        self._missed: list[Open] = []
        self._last_frame: tuple[int, int] | None = None  # session and frame id
        self._stirred_ns = 0

    @property
    def waiting(self) -> int:
        """Triggers without frame and without answer."""
        return sum(not each.is_answered for each in self._open.values())

    @property
    def held(self) -> list[Held]:
        """Frames without trigger."""
        return list(self._held)

    @property
    def is_full(self) -> bool:
        """Whether one more trigger is one too many."""
        return self.waiting >= self.most

    # --- triggers -----------------------------------------------------------------------------------------------

    def add(self, trigger: Open) -> None:
        """Take a trigger; ask ``claimed`` for its frame then. Of two of one id one must be answered already."""
        if len(self._open) >= 2 * self.most:
            self._forget_answered()
        quiet_ns = trigger.admitted_ns - self._stirred_ns
        if not self._open and not self._held and quiet_ns >= trigger.deadline_ns - trigger.admitted_ns:
            self._in_step = True
        self._open[trigger.number] = trigger
        word, may_come_ns = self._recent.pop(trigger.header.trigger_id, (SECOND, 0))
        if word == LATE and trigger.admitted_ns < may_come_ns:
            self._reused.add(trigger.number)
        self._stirred_ns = trigger.admitted_ns

    def claimed(self, trigger: Open) -> tuple[Held, Joined | str] | None:
        """Return the early frame of a trigger just added, and what to do with it as ``match`` says; or None."""
        for held in self._held:
            by_id = held.header.trigger_id == trigger.header.trigger_id
            if by_id or (held.header.trigger_id is None and len(self._open) == 1):
                self._held.remove(held)
                outcome = self._join(trigger, sure=True) if by_id else self._by_turn(held.header)
                return None if outcome is None else (held, outcome)
        return None

    def expired(self, now_ns: int) -> list[Open]:
        """Take out the triggers whose deadline came before their frame."""
        due = [each for each in self._open.values() if each.deadline_ns <= now_ns]
        for trigger in due:
            self._leave(trigger, LATE)
            self.lose_step()
            self._stirred_ns = now_ns
        missed, self._missed = self._missed, []
        return [each for each in missed + due if not each.is_answered]

    # --- frames -------------------------------------------------------------------------------------------------

    def match(self, header: FrameHeader, now_ns: int) -> Joined | str | None:
        """Say where a frame belongs: to a trigger, nowhere (a word), or None: ``hold`` it.

        Call ``expired`` before, and after: it also gives the triggers whose frames a gap in the numbers shows lost.
        """
        goes_back = self._note_number(header)
        self._stirred_ns = now_ns
        if header.trigger_id is not None:
            named = [each for each in self._open.values() if each.header.trigger_id == header.trigger_id]
            if named:
                trigger = min(named, key=lambda each: each.is_answered)
                return self._join(trigger, sure=self._is_own(header, trigger, named))
            return self._recent.get(header.trigger_id, (None, 0))[0]
        if not self._by_order:
            return NO_TRIGGER
        return LATE if goes_back else self._by_turn(header)

    def hold(self, header: FrameHeader, now_ns: int, load: Any) -> bool:
        """Keep a frame for a trigger to come; False if there is no room for it."""
        if self._early_ns <= 0 or len(self._held) >= self.most:
            return False
        self._held.append(Held(header, now_ns + self._early_ns, load))
        return True

    def unclaimed(self, now_ns: int) -> list[Held]:
        """Take out the frames that were held long enough."""
        due = [each for each in self._held if each.due_ns <= now_ns]
        self._held = [each for each in self._held if each.due_ns > now_ns]
        return due

    def next_due_ns(self) -> int | None:
        """Return when ``expired`` or ``unclaimed`` next gives something, or None."""
        due = [each.deadline_ns for each in self._open.values()] + [each.due_ns for each in self._held]
        due += [0] * bool(self._missed)
        return min(due, default=None)

    def drained(self) -> tuple[list[Open], list[Held]]:
        """Take out everything: the station ends."""
        triggers = [each for each in (*self._missed, *self._open.values()) if not each.is_answered]
        frames = self._held
        self._open.clear()
        self._reused.clear()
        self._missed, self._held = [], []
        return triggers, frames

    # --- order --------------------------------------------------------------------------------------------------

    def _by_turn(self, header: FrameHeader) -> Joined | str | None:
        """Say where a frame belongs that names no trigger."""
        trigger = next(iter(self._open.values()), None)
        if trigger is None:
            return None
        is_comparable = header.clock is not Clock.CAMERA
        if is_comparable and header.acquired_ns + self._early_ns < trigger.raised_utc_ns:
            return LATE  # an exposure from before this part came: that of an earlier one
        if is_comparable and len(self._open) == 1:
            self._in_step = True
        self._counts = self._in_step
        return self._join(trigger, sure=self._in_step)

    def lose_step(self) -> None:
        """Trust the order no more: a frame turned out to be another part's."""
        self._in_step = self._counts = False

    def _forget_answered(self) -> None:
        """Give up the frame of the oldest trigger that is answered; one that waits must leave by its answer."""
        oldest = next((each for each in self._open.values() if each.is_answered), None)
        if oldest is not None:
            self._leave(oldest, LATE)
            self.lose_step()

    def _note_number(self, header: FrameHeader) -> bool:
        """Look for frames lost on their way; tell whether this one comes after a younger one."""
        last, this = self._last_frame, (header.session, header.frame_id)
        if last is None or last[0] != this[0]:
            self._last_frame = this
            if last is not None and len(self._open) > 1:
                self.lose_step()
            self._counts = False
            return False
        if this[1] <= last[1]:
            return True
        self._last_frame = this
        missing = this[1] - last[1] - 1
        if self._by_order and missing and (header.trigger_id is not None or not self._counts):
            self.lose_step()  # whose they were cannot be told
        elif self._counts:
            for trigger in list(self._open.values())[:missing]:
                self._leave(trigger, LATE)
                self._missed.append(trigger)
        return False

    def _is_own(self, header: FrameHeader, trigger: Open, named: list[Open]) -> bool:
        """Tell whether a frame is surely that of ``trigger``; ``named``: all that are open under the frame's id."""
        others = [each for each in named if each is not trigger]
        if not others and trigger.number not in self._reused:
            return True
        if header.part_id and header.part_id == trigger.header.part_id:
            return True
        times = [each.raised_utc_ns for each in others if each.raised_utc_ns >= trigger.raised_utc_ns]
        before_all_others = all(header.acquired_ns < each for each in times)
        is_comparable = header.clock is not Clock.CAMERA
        return is_comparable and trigger.raised_utc_ns <= header.acquired_ns and before_all_others

    def _join(self, trigger: Open, *, sure: bool) -> Joined | str:
        self._leave(trigger, SECOND if sure and not trigger.is_answered else LATE)
        if not self._in_step and not sure:  # its own frame may be the one that still comes
            self._stirred_ns = max(self._stirred_ns, trigger.deadline_ns)
        return LATE if trigger.is_answered else Joined(trigger, sure)

    def _leave(self, trigger: Open, word: str) -> None:
        self._open.pop(trigger.number)
        self._reused.discard(trigger.number)
        # Two deadlines after its trigger no frame comes any more: as with the order.
        self._recent[trigger.header.trigger_id] = word, 2 * trigger.deadline_ns - trigger.admitted_ns
        while len(self._recent) > MOST_RECENT:
            self._recent.popitem(last=False)
