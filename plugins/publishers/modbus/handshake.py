"""One PLC's handshake as a state machine: levels in, levels out. No sockets, threads or clocks here.

Results::

    EMPTY --a result, ack low--> VALID --ack high--> ACKED --remembered--> SETTLED --ack low--> EMPTY

RESULT_VALID is high in VALID and ACKED, so it falls only when the acknowledgement is on disk; and what is shown is on
disk before the PLC can see it, so a publisher killed at any moment shows it again without a gap, and nothing twice.
Triggers are the same four steps the other way round. Only levels count: a write that is lost and repeated changes
nothing.

Nothing new is shown before the PLC has written its control word once: its buffering is not known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Protocol

from edgead import EdgeadError
from plugins.publishers.modbus.image import Command, Control, Status

#: Error words (see docs/protocol.md) that the publisher itself has to say.
BAD_COMMAND, ACTIVATION_REFUSED = 10, 6
#: Results remembered for triggers the station answers with their first result.
MOST_RECENT = 256


@dataclass(frozen=True, slots=True)
class Shown:
    """A result ready for the image: its 40 registers, the station's words 0; ``token``: the publisher's own."""

    image: tuple[int, ...]
    result_id: str
    seq: int
    trigger_id: int | None
    verdict: int
    historical: bool
    simulated: bool
    token: Any


class Phase(Enum):
    """See the drawing in the module docstring."""

    EMPTY = "empty"
    VALID = "valid"
    ACKED = "acked"
    SETTLED = "settled"


class Plc(Protocol):
    """What a handshake asks of its publisher; ``trigger`` and ``recipe`` may raise an ``EdgeadError``."""

    def settle(self, token: Any) -> None:
        """Have a result remembered as handed over, then call ``settled``."""

    def trigger(self, trigger_id: int, part_id: str, recipe_id: int, raised_ns: int) -> None:
        """Raise a trigger; the same one again if it was raised before."""

    def recipe(self, recipe_id: int) -> None:
        """Begin a recipe change, then call ``recipe_done``."""

    def keep(self, record: Mapping[str, Any]) -> None:
        """Store a small JSON object for the next process."""


class Handshake:
    """The handshake of one camera. ``buffer``: results the PLC may leave waiting. ``memory``: what was kept last.

    ``is_done(result_id)``: whether a result was remembered as handed over.
    """

    def __init__(self, plc: Plc, *, buffer: int, memory: Mapping[str, Any], is_done: Callable[[str], bool]) -> None:
        self.phase = Phase.EMPTY
        self.shown: Shown | None = None
        self.overruns = self.missed = 0
        self.error_code = 0
        self.ready = False
        self._plc = plc
        self._buffer = buffer
        self._queue: deque[Shown] = deque()
        self._recent: dict[int, Shown] = {}
        self._control: Control | None = None
        #: Triggers without result: id -> part, recipe number, time raised.
        self._waiting: dict[int, tuple[str, int, int]] = {
            each[0]: (each[1], each[2], each[3]) for each in memory.get("waiting", ())
        }
        self._promised: dict[int, int] = {}
        self._taken: list[Any] | None = memory.get("taken")
        self._latched = self._flags = Status(0)
        self._hidden = False
        if (shown := memory.get("shown")) is not None:
            self._restore(Shown(**{**shown, "image": tuple(shown["image"]), "token": None}), is_done)

    def begin(self) -> None:
        """Raise again what an earlier process may not have got to raise: the station knows a repetition."""
        for trigger_id, (part_id, recipe_id, raised_ns) in self._waiting.items():
            self._plc.trigger(trigger_id, part_id, recipe_id, raised_ns)

    def _restore(self, shown: Shown, is_done: Callable[[str], bool]) -> None:
        if is_done(shown.result_id):
            self.phase = Phase.SETTLED
        else:
            self.phase, self.shown = Phase.VALID, shown

    # --- in -----------------------------------------------------------------------------------------------------

    def offer(self, result: Shown) -> None:
        """Take the next result."""
        if self.shown is not None and self.shown.token is None:
            if self.shown.result_id == result.result_id:  # shown by an earlier process: here it is again
                self.shown = replace(self.shown, token=result.token)
                if self.phase is Phase.ACKED:
                    self._plc.settle(result.token)
                return
            self.shown, self.phase = None, Phase.SETTLED  # the record has lost it
        self._recent[result.seq] = result
        while len(self._recent) > MOST_RECENT:
            del self._recent[next(iter(self._recent))]
        if result.trigger_id is not None:
            self._answered(result.trigger_id)
        for trigger_id in [each for each, seq in self._promised.items() if seq < result.seq]:
            self._answered(trigger_id)  # its result was shown too long ago to be shown again
            self._miss()
        self._queue.append(result)
        self._advance()

    def answer(self, trigger_id: int, seq: int, refused: str) -> None:
        """Take the station's word on a trigger: the result it belongs to, or why it will have none."""
        if trigger_id not in self._waiting:
            return  # its result was here first
        earlier = self._recent.get(seq)
        if not refused and earlier is None:
            self._promised[trigger_id] = seq
            return
        self._answered(trigger_id)
        if earlier is None:
            self._miss()
        else:  # a repeated trigger, answered with the result of the first
            self._queue.append(earlier)
        self._advance()

    def command(self, said: Command, now_ns: int) -> None:
        """Take the PLC's words as it has just written them; ``now_ns``: UTC."""
        before = self._control if self._control is not None else Control(0)
        self._control = said.control
        rising = said.control & ~before
        if Control.TRIGGER in rising:
            self._take_trigger(said, now_ns)
        elif Control.TRIGGER not in said.control and self._taken is not None:
            self._taken = None
            self._remember()
        if Control.CLEAR_ERROR in rising:
            self._latched, self.error_code = Status(0), 0
        if Control.CHANGE_RECIPE in rising:
            self._take_recipe(said.recipe_id)
        self._advance()

    def looked(self) -> None:
        """Note that the PLC has read the status: a result that replaces another may be shown now."""
        if self._hidden:
            self._hidden = False
            self._advance()

    def settled(self, token: Any) -> None:
        """Note that a result is remembered as handed over."""
        if self.phase is Phase.ACKED and self.shown is not None and self.shown.token is token:
            self.phase, self.shown = Phase.SETTLED, None
            self._remember()
            self._advance()

    def recipe_done(self, *, refused: bool) -> None:
        """Note the end of a recipe change."""
        self._flags &= ~Status.RECIPE_BUSY
        if refused:
            self._latched |= Status.RECIPE_ERROR
            self.error_code = ACTIVATION_REFUSED

    # --- out ----------------------------------------------------------------------------------------------------

    @property
    def buffers(self) -> bool:
        """Whether results wait until each is acknowledged, or the PLC has not said yet."""
        return self._control is None or Control.BUFFER_ENABLE in self._control

    def awaits(self, trigger_id: int | None) -> bool:
        """Tell whether a trigger raised here has no result yet."""
        return trigger_id is not None and trigger_id in self._waiting

    @property
    def waiting(self) -> int:
        """Results that wait behind the one shown."""
        return len(self._queue)

    @property
    def buffer_free(self) -> int:
        """Results that may still wait before the buffer is full; none is lost beyond."""
        return max(0, self._buffer - len(self._queue) - (self.shown is not None))

    def status(self) -> Status:
        """Return the bits that are the handshake's own."""
        bits = self._latched | self._flags
        if self.ready and not self._is(Control.SET_OFFLINE):
            bits |= Status.READY
        if self._waiting:
            bits |= Status.BUSY
        if self._taken is not None and self._is(Control.TRIGGER):
            bits |= Status.TRIGGER_ACK
        commanded = self._is(Control.CHANGE_RECIPE) or self._is(Control.CLEAR_ERROR)
        if commanded and Status.RECIPE_BUSY not in bits:
            bits |= Status.CMD_ACK
        if self._is(Control.BUFFER_ENABLE) and len(self._queue) + (self.shown is not None) > self._buffer:
            bits |= Status.BUFFER_OVERRUN
        if self.shown is not None:
            verdicts = {1: Status.OK, 2: Status.NOK}
            bits |= Status.RESULT_VALID | verdicts.get(self.shown.verdict, Status.UNDECIDED)
            bits |= Status.HISTORICAL if self.shown.historical else Status(0)
            bits |= Status.SIMULATED if self.shown.simulated else Status(0)
        return bits

    # --- inside -------------------------------------------------------------------------------------------------

    def _is(self, bit: Control) -> bool:
        return self._control is not None and bit in self._control

    def _advance(self) -> None:
        if self._control is None:
            return
        if self.phase is Phase.SETTLED and not self._is(Control.RESULT_ACK):
            self.phase = Phase.EMPTY
        if self.phase is Phase.VALID and self.shown is not None and self._is(Control.RESULT_ACK):
            self.phase = Phase.ACKED
            if self.shown.token is not None:
                self._plc.settle(self.shown.token)
        if not self._is(Control.BUFFER_ENABLE):
            self._replace()
        if self.phase is Phase.EMPTY and self._queue and not self._is(Control.RESULT_ACK) and not self._hidden:
            self.phase, self.shown = Phase.VALID, self._queue.popleft()
            self._remember()  # before the PLC can see it

    def _replace(self) -> None:
        """Without buffering only the newest result counts; RESULT_VALID falls for one look of the PLC in between."""
        if self._queue and self.phase is Phase.VALID and self.shown is not None and self.shown.token is not None:
            self._queue.appendleft(self.shown)
            self.phase, self.shown, self._hidden = Phase.EMPTY, None, True
        while len(self._queue) > 1:
            self._plc.settle(self._queue.popleft().token)
            self.overruns += 1
            self._latched |= Status.BUFFER_OVERRUN

    def _take_trigger(self, said: Command, now_ns: int) -> None:
        name = [said.trigger_id, said.part_id]
        if self._taken == name:
            return  # taken by an earlier process, and still high
        known = self._waiting.get(said.trigger_id)
        if not self.ready or self._is(Control.SET_OFFLINE) or (known is not None and known[0] != said.part_id):
            self._miss()
            return
        self._taken = name
        if known is None:  # else it was raised before and has no result yet: it is the same one
            self._waiting[said.trigger_id] = (said.part_id, said.recipe_id, now_ns)
        self._remember()  # first: a process killed here raises it at its next start
        try:
            if known is None:
                self._plc.trigger(said.trigger_id, said.part_id, said.recipe_id, now_ns)
        except EdgeadError:
            self._taken = None
            self._answered(said.trigger_id)
            self._miss()

    def _answered(self, trigger_id: int) -> None:
        self._promised.pop(trigger_id, None)
        if self._waiting.pop(trigger_id, None) is not None:
            self._remember()

    def _miss(self) -> None:
        self.missed += 1
        self._latched |= Status.MISSED_TRIGGER
        self.error_code = BAD_COMMAND

    def _take_recipe(self, number: int) -> None:
        self._latched &= ~Status.RECIPE_ERROR
        self._flags |= Status.RECIPE_BUSY
        try:
            self._plc.recipe(number)
        except EdgeadError:
            self.recipe_done(refused=True)

    def _remember(self) -> None:
        shown = None
        if self.shown is not None:
            shown = {each.name: getattr(self.shown, each.name) for each in fields(self.shown) if each.name != "token"}
        waiting = [[trigger_id, *rest] for trigger_id, rest in self._waiting.items()]
        self._plc.keep({"shown": shown, "taken": self._taken, "waiting": waiting})
