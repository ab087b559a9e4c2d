"""One camera's way through the host to one template in one worker: pipeline, shared memory, worker, answers.

A lane decides; ``runtime.host.loop`` does the talking, and a ``runtime.changing.post`` says which lane is on duty.
Everything that leaves a lane is an ``Answer``: exactly one for every frame that came in. What happens besides is news
of its camera.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from runtime.errors import StationError
from runtime.frame import FrameHeader
from runtime.inspection import ErrorWord, Verdict
from runtime.lane.assignment import Assignment
from runtime.lane.judge import Answer as Answer
from runtime.lane.judge import Judge, ask_for, undecided
from runtime.lane.pipeline import MAX_IN_FLIGHT, WAITING_ERROR, Pipeline, Ticket
from runtime.lane.readiness import read_device_memory, read_engine
from runtime.lane.supervisor import STOP_S
from runtime.lane.tally import Tally
from runtime.lane.track import Track
from runtime.lane.workers import Workers, limits_of
from runtime.ledger import Event
from runtime.lifecycle import State
from runtime.worker.slots import Slots

log = logging.getLogger("edgead.host")

#: Longest reason kept in an event, in characters.
MOST_WHY = 300


class Lane:
    """The frames of one assignment. Times are monotonic nanoseconds except ``received_ns``, which is UTC.

    ``tally``: of its camera, None: its own. ``workers``: the host's, of which it may share one; None: it shares none.
    """

    def __init__(self, assignment: Assignment, tally: Tally | None = None, workers: Workers | None = None) -> None:
        self.assignment = assignment
        self.name = assignment.name
        self.camera = assignment.camera
        self.template = assignment.template
        self.setup = assignment.setup
        self.pipeline = Pipeline(self.camera.queue, self.camera.deadline_ms * 1_000_000)
        self.tally = Tally() if tally is None else tally
        #: The latest inspections, for the guard of a swap.
        self.track = Track()
        #: What frames are told that wait for the first start of the worker.
        self.starting_word = ErrorWord.DETECTOR_STARTING
        #: Bytes of device memory as the worker found them when it was ready: free, total, used; None on a CPU.
        self.device_memory: dict[str, int] | None = None
        #: What the worker inspects with: backend, precision, and a note where that is not what the file asks for.
        self.engine: dict[str, str] | None = None
        setup = self.setup
        self._slots = Slots.create(setup["slots"], setup["frame_bytes"], setup["answer_bytes"])
        golden = self.template.manifest.golden  # each a frame and its map: a little more than a frame needs
        # All that a line which keeps up needs; a queue takes more when there is one.
        self._slots.touch(MAX_IN_FLIGHT, golden.size // max(golden.count, 1))
        self._judge = Judge(self.template.manifest, setup["map"], self._slots)
        self.thresholds = self._judge.thresholds
        self.worker = (workers or Workers()).seat(assignment, self._slots)
        self._state = self.worker.state
        self._restarts = 0  # told to the tally

    def configure(self, assignment: Assignment) -> None:
        """Take what the host itself holds (deadline, limits of the worker) from another assignment of equal setup."""
        self.assignment, self.camera = assignment, assignment.camera
        self.pipeline.deadline_ns = self.camera.deadline_ms * 1_000_000
        self.worker.configure(**limits_of(assignment.station.worker))

    @property
    def answer_bytes(self) -> int:
        """Largest map and preview of one result, in bytes."""
        return self._slots.answer_bytes

    # --- frames -------------------------------------------------------------------------------------------------

    def take(
        self,
        header: FrameHeader,
        pixels: memoryview,
        number: int,
        now_ns: int,
        received_ns: int,
        *,
        deadline_ns: int | None = None,
    ) -> Answer | None:
        """Admit a frame, copying its pixels into shared memory (the only copy); an answer at once if it cannot wait.

        ``deadline_ns``: of its trigger, where that came ahead of it.
        """
        self.tally.counts["frames"] += 1
        has_failed = self.worker.state is State.FAILED
        ticket = None if has_failed else self.pipeline.admit(number, header, now_ns, received_ns, deadline_ns)
        if ticket is None:
            full = f"{self.pipeline.waiting} frames already wait, the limit is {self.camera.queue}"
            detail = f"the worker {self.worker.last_error}" if has_failed else full
            word = self._waiting_word()
            return self.tally.count(Answer(header, number, now_ns, received_ns, Verdict.NOT_DECIDABLE, word, detail))
        self._slots.frame(ticket.slot, pixels.nbytes)[:] = pixels
        return None

    def refuse(
        self,
        header: FrameHeader,
        number: int,
        now_ns: int,
        received_ns: int,
        *,
        word: ErrorWord = ErrorWord.STOPPING,
        detail: str = "the station is stopping",
        framed: bool = True,
    ) -> Answer:
        """Answer a frame that is not inspected: it came while the station is stopping, or for the reason given.

        ``framed`` False: a trigger that got no frame.
        """
        self.tally.counts["frames"] += framed
        return self.tally.count(Answer(header, number, now_ns, received_ns, Verdict.NOT_DECIDABLE, word, detail))

    def pixels(self, answer: Answer) -> memoryview | None:
        """Return the pixels an answer is about, in shared memory, until the lane takes another frame; None if gone."""
        if answer.slot is None:
            return None
        return self._slots.frame(answer.slot, answer.header.payload_bytes)

    # --- a turn of the loop -------------------------------------------------------------------------------------

    def advance(self, now_ns: int) -> list[Answer]:
        """Do everything that is due: deadlines, hung worker, restart, dispatch. Never blocks."""
        answers = self._expired(now_ns)
        if self.worker.state is State.STOPPING:
            return answers
        if self.worker.is_bereaved:  # another lane of the same worker has buried it
            answers += self.read_worker(now_ns)
        overdue = self.worker.overdue(now_ns, self.pipeline.busy_since_ns)
        if overdue:
            answers += self._bury(now_ns, overdue)
        deaths = self.worker.restarts
        self.worker.start_if_due(now_ns)
        if self.worker.restarts != deaths:  # the machine would not start it
            answers += self._after_death(now_ns, f"the worker {self.worker.last_error}")
        self.dispatch(now_ns)
        self.worker.beat(now_ns, idle=self.pipeline.busy_since_ns is None)
        return answers

    def next_due_ns(self) -> int | None:
        """Return when ``advance`` next has something to do, or None."""
        due = [self.pipeline.next_deadline_ns(), self.worker.next_due_ns(self.pipeline.busy_since_ns)]
        return min((time for time in due if time is not None), default=None)

    def dispatch(self, now_ns: int) -> None:
        """Send the worker the frames it can take now."""
        while self.worker.state is State.READY and (ticket := self.pipeline.dispatch(now_ns)) is not None:
            try:
                self.worker.send(ask_for(ticket))
            except EOFError:
                return  # it died: ``read_worker`` takes what it still said, then buries it

    def read_worker(self, now_ns: int) -> Iterator[Answer]:
        """Take every record the worker has sent; a worker that is gone or out of step is buried.

        An answer is out before the next record is looked for: whoever publishes it need not wait for that. Deadlines
        come first: what the worker said in time but nobody read in time is late.
        """
        yield from self._expired(now_ns)
        try:
            while self.worker.link is not None and (record := self.worker.link.receive()) is not None:
                self.worker.heard(now_ns)
                yield from self._handle(record, now_ns)
                if self.pipeline.busy_since_ns is None and not self.worker.is_asked:
                    break  # it owes nothing more: an answer need not wait for another look, the next turn has one
            if self.worker.is_bereaved:  # what it said is read, and one that is stuck never closes its end
                yield from self._bury(now_ns, "")
        except EOFError:
            yield from self._bury(now_ns, "died")
        except (StationError, ValueError, KeyError, TypeError) as error:
            yield from self._bury(now_ns, f"sent a record out of step: {error}")

    def _handle(self, record: dict[str, Any], now_ns: int) -> list[Answer]:
        for op, why in _UNFIT:
            if record["op"] == op:
                return self._bury(now_ns, f"{why}: {record['error']}")
        if record["op"] == "ready":
            self.worker.ready(now_ns)
            self.device_memory = read_device_memory(record)
            self.engine = read_engine(record)
            self._note_state()
            return []
        if record["op"] == "engine":
            self.engine = read_engine(record)
            return []
        if record["op"] == "alive":
            self.worker.alive(now_ns, golden=record["golden"] is True)
            return []
        dispatched_ns = self.pipeline.busy_since_ns or now_ns
        ticket = self.pipeline.answered(record["ticket"], now_ns)
        if ticket is None:
            score = record.get("score")
            detail = {"trigger": record["ticket"], "score": score if _is_finite(score) else None}
            self._tell(Event.LATE_ANSWER, detail)
            return []
        return [self.tally.count(self._judge.answer(ticket, record, dispatched_ns, now_ns))]

    # --- the end ------------------------------------------------------------------------------------------------

    def abandon(self, now_ns: int, word: ErrorWord, why: str) -> list[Answer]:
        """Answer everything that has not left, with ``word``: this lane will not inspect it."""
        return [self._undecided(ticket, word, why, now_ns) for ticket in self.pipeline.drained()]

    def ended(self, now_ns: int) -> bool:
        """Tell whether the worker of a lane without frames, asked to end, is gone; then ``release`` the memory."""
        return self.worker.ended(now_ns)

    def release(self) -> None:
        """Give the shared memory back. May take milliseconds: pages that frames have filled are freed."""
        self._slots.close()

    def stop(self, now_ns: int, patience_s: float = STOP_S) -> list[Answer]:
        """Stop the worker, waiting so long for it; whatever has not left yet leaves undecided."""
        self.worker.stop(patience_s)
        rest = self.abandon(now_ns, ErrorWord.STOPPING, "the station is stopping")
        self.release()
        return [replace(answer, slot=None) for answer in rest]  # the memory is gone

    def status(self) -> dict[str, Any]:
        """Return what `edgead status --json` shows of a lane; the counts of frames are its camera's."""
        return {
            "product": self.camera.product,
            "detector": self.camera.detector,
            "template": self.template.digest,
            "worker": self.worker.state.value,
            "worker_pid": self.worker.pid,
            "shared_with": self.worker.shared_with,
            "engine": self.engine,
            "restarts": self.worker.restarts,
            **self.own_counts(),
            "last_error": self.worker.last_error,
            "waiting": self.pipeline.waiting,
            "unanswered": self.pipeline.unanswered,
        }

    def own_counts(self) -> dict[str, int]:
        """Return what a camera's lanes count each for itself, to be added up; restarts its tally counts."""
        return {
            "self_tests": self.worker.self_tests,
            "late_answers": self.pipeline.late_answers,
        }

    # --- answers without a decision -----------------------------------------------------------------------------

    def _expired(self, now_ns: int) -> list[Answer]:
        overdue = self.pipeline.expired(now_ns)
        return [self._undecided(ticket, *self._why_expired(ticket, held), now_ns) for ticket, held in overdue]

    def _why_expired(self, ticket: Ticket, held_by_worker: bool) -> tuple[ErrorWord, str]:
        # Of the frame itself: its trigger may have asked for less, or come before it, or the camera's was changed.
        deadline = f"no answer within {(ticket.deadline_ns - ticket.admitted_ns) // 1_000_000} ms of its frame"
        if held_by_worker:
            return ErrorWord.DETECTOR_TIMEOUT, deadline
        return self._waiting_word(), f"{deadline}: worker {self.worker.state}"

    def _waiting_word(self) -> ErrorWord:
        if self.worker.state is State.STARTING:
            return self.starting_word
        return WAITING_ERROR.get(self.worker.state, ErrorWord.STOPPING)

    def _bury(self, now_ns: int, why: str) -> list[Answer]:
        begun = not self.worker.is_asked
        why = f"the worker {self.worker.gone(now_ns, why)}"
        victim = self.pipeline.lost(begun=begun)
        lost = [self._undecided(victim, ErrorWord.DETECTOR_CRASH, why, now_ns)] if victim is not None else []
        return lost + self._after_death(now_ns, why)

    def _after_death(self, now_ns: int, why: str) -> list[Answer]:
        supervisor, restarts = self.worker.supervisor, self.worker.restarts
        self.tally.died(supervisor, supervisor.deaths - (restarts - self._restarts), supervisor.deaths)
        self._restarts = restarts
        self._tell(Event.RESTART, {"restarts": self.worker.restarts, "why": self.worker.last_error[:MOST_WHY]})
        self._note_state()
        if self.worker.state is State.FAILED:  # nobody comes for the frames that wait
            return self.abandon(now_ns, ErrorWord.DETECTOR_CRASH, why)
        return []

    def _note_state(self) -> None:
        if self.worker.state is not self._state:
            before, self._state = self._state, self.worker.state
            self._tell(Event.STATE, {"from": before, "to": self._state, "why": self.worker.last_error[:MOST_WHY]})

    def _tell(self, event: Event, detail: dict[str, Any]) -> None:
        recipe = {"recipe": self.assignment.recipe} if self.assignment.recipe else {}
        self.tally.news.append((event, {"camera": self.name, **recipe, **detail}))

    def _undecided(self, ticket: Ticket, word: ErrorWord, detail: str, now_ns: int) -> Answer:
        return self.tally.count(undecided(ticket, word, detail, now_ns))


def _is_finite(score: Any) -> bool:
    return type(score) is float and math.isfinite(score)


#: What a worker says of itself before it ends.
_UNFIT = (("failed", "could not load"), ("unfit", "failed its self-test"))
