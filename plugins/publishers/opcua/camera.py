"""One camera behind the OPC UA server: which result is shown, what waits behind it, and which jobs are open.

No OPC UA here, so that the flat methods and those of OPC 40100-1 answer alike. Everything runs in the server's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from edgead import Delivered, EdgeadError, Feed, PublisherContext
from plugins.publishers.opcua.jobs import Job, Jobs

if TYPE_CHECKING:
    from collections.abc import Callable

#: Longest a method waits for an acknowledgement to be on disk.
_SETTLE_S = 2.0
#: Longest MeasId; it is written into a file and shown in `edgead status`.
MOST_ID_CHARACTERS = 64


class Answer(IntEnum):
    """What methods answer as Error: 0 done; OPC 40100-1 leaves numbers below 0 to the vendor."""

    DONE = 0
    """Done, and on disk."""
    REFUSED = -1
    """Refused; the camera's RefusedReason says why."""
    HOST_LOST = -2
    """The inspection loop does not answer: nothing was done, call again."""
    UNKNOWN = -3
    """No result of this id is shown or was taken."""


class Refusal(NamedTuple):
    """A job that will have no result, and why: a word of the station's or a sentence."""

    job: Job
    reason: str


class Desk:
    """Where the server's thread hands results to be remembered as handed over."""

    def __init__(self, feed: Feed, done: queue.SimpleQueue[Delivered]) -> None:
        self.is_done, self.settle = feed.is_done, done.put


class Camera:
    """The results and jobs of one camera. ``acknowledge``: a result is shown until a client has taken it."""

    def __init__(
        self, name: str, context: PublisherContext, desk: Desk, refuse: Callable[[str], None], *, acknowledge: bool
    ) -> None:
        """Read what an earlier process left open; ``refuse`` takes the sentence of each refused call."""
        self.name = name
        self.shelf = Shelf(desk, acknowledge=acknowledge)
        self.jobs = Jobs(context.folder / f"jobs-{name}.json")
        self._context, self._desk, self._refuse = context, desk, refuse
        self._acknowledge = acknowledge
        #: Whether a client has halted it: no more jobs are taken.
        self.is_halted = False
        self._settling: dict[str, asyncio.Future[None]] = {}
        #: Jobs whose result the station says it has made already: number -> seq.
        self._promised: dict[int, int] = {}

    def begin(self) -> None:
        """Raise again what an earlier process may not have got to raise: the station knows a repetition."""
        for job in self.jobs.open:
            with contextlib.suppress(EdgeadError):
                self._raise(job)

    # --- calls --------------------------------------------------------------------------------------------------

    def start(self, meas_id: str, part_id: str, recipe_id: str) -> tuple[str, Answer]:
        """Start a job; return its id and the answer. Repeated while the job is open, it is the same job."""
        if not self._context.line.pulse().alive:
            return "", Answer.HOST_LOST
        if self.is_halted:
            return self._refused("the camera was halted by a client: call Reset first")
        known = {job.number for job in self.jobs.open}
        job = None
        try:
            if len(meas_id) > MOST_ID_CHARACTERS:
                return self._refused(f"expected a MeasId of at most {MOST_ID_CHARACTERS} characters")
            job = self.jobs.start(meas_id, part_id, recipe_id)
            self._raise(job)
        except EdgeadError as error:
            if job is not None and job.number not in known:
                self.jobs.close(job.number)
            return self._refused(str(error))
        return str(job.number), Answer.DONE

    async def prepare(self, recipe_id: str) -> Answer:
        """Make a recipe the current one; empty: the camera's own."""
        try:
            await asyncio.to_thread(self._context.line.select_recipe, self.name, recipe_id)
        except EdgeadError as error:
            return self._refused(str(error))[1]
        return Answer.DONE

    async def acknowledge(self, result_id: str) -> Answer:
        """Take a result. Answers once that is on disk: an answer that came is never taken back."""
        try:
            delivered = self.shelf.acknowledge(result_id)
        except ValueError:
            return Answer.UNKNOWN
        if delivered is not None:
            waiting = self._settling.get(result_id)
            if waiting is None:
                waiting = self._settling[result_id] = asyncio.get_running_loop().create_future()
                self._close(delivered)
                self._desk.settle(delivered)
            try:
                await asyncio.wait_for(asyncio.shield(waiting), _SETTLE_S)
            except TimeoutError:
                return self._refused("the acknowledgement could not be written down in time: call again")[1]
        return Answer.DONE

    # --- results ------------------------------------------------------------------------------------------------

    def offer(self, delivered: Delivered) -> Delivered | None:
        """Take the next result; return it if it is to be shown now."""
        job = self._job_of(delivered)
        if job is not None:
            self._promised.pop(job.number, None)
        for number in [number for number, seq in self._promised.items() if seq < delivered.seq]:
            del self._promised[number]  # its result was taken from an earlier process
            self.jobs.close(number)
        return self.shelf.offer(delivered)

    def announced(self, delivered: Delivered) -> None:
        """Note that a result was written and its events sent: without acknowledgement that is its handing over."""
        if not self._acknowledge:
            self._close(delivered)
            self._desk.settle(delivered)

    def settled(self, delivered: Delivered) -> Delivered | None:
        """Note that a result is remembered as handed over; return the next one if it is to be shown now."""
        waiting = self._settling.pop(delivered.inspection.result_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        return self.shelf.settled(delivered)

    def answer(self, trigger_id: int, seq: int, refused: str) -> Refusal | None:
        """Take the station's word on a trigger; return the job it ends without a result."""
        if not refused:
            is_open = any(job.number == trigger_id for job in self.jobs.open)
            if is_open and all(each.seq != seq for each in self.shelf.here):
                self._promised[trigger_id] = seq
            return None
        job = self.jobs.close(trigger_id)
        if job is None:
            return None
        self._refuse(f"{job.meas_id or job.number}: {refused}")
        return Refusal(job, refused)

    def _job_of(self, delivered: Delivered) -> Job | None:
        inspection = delivered.inspection
        return self.jobs.of(inspection.trigger_id, inspection.part_id, inspection.triggered_ns)

    def _close(self, delivered: Delivered) -> None:
        """End a result's job before the result is remembered: a kill in between shows it again, and no more."""
        job = self._job_of(delivered)
        if job is not None:
            self.jobs.close(job.number)

    def _raise(self, job: Job) -> None:
        self._context.line.trigger(self.name, job.number, job.part_id, job.recipe_id, job.raised_ns)

    def _refused(self, why: str) -> tuple[str, Answer]:
        self._refuse(why)
        return "", Answer.REFUSED


class Shelf:
    """What one camera shows, and what waits behind it. ``acknowledge``: each until it is acknowledged."""

    def __init__(self, desk: Desk, *, acknowledge: bool) -> None:
        self.shown: Delivered | None = None
        self._desk, self._acknowledge = desk, acknowledge
        self._waiting: deque[Delivered] = deque()

    @property
    def waiting(self) -> int:
        """Results that wait behind the one shown."""
        return len(self._waiting)

    @property
    def here(self) -> list[Delivered]:
        """The result shown and those that wait behind it."""
        return [*([self.shown] if self.shown is not None else []), *self._waiting]

    def offer(self, delivered: Delivered) -> Delivered | None:
        """Take a result; return it if it is to be shown now."""
        if not self._acknowledge:
            self.shown = delivered
            return delivered
        self._waiting.append(delivered)
        return self._next()

    def acknowledge(self, result_id: str) -> Delivered | None:
        """Return the result of this id if it waits to be remembered, None if it is so; ``ValueError`` if neither."""
        if self.shown is not None and self.shown.inspection.result_id == result_id and self._acknowledge:
            return self.shown
        if self._desk.is_done(result_id):
            return None  # the answer to an earlier call was lost
        raise ValueError(f"expected the result shown, found {result_id[:80]!r}")

    def settled(self, delivered: Delivered) -> Delivered | None:
        """Note that a result is remembered; return the next one if it is to be shown now."""
        if self._acknowledge and self.shown is delivered:
            self.shown = None
            return self._next()
        return None

    def _next(self) -> Delivered | None:
        if self.shown is None and self._waiting:
            self.shown = self._waiting.popleft()
            return self.shown
        return None
