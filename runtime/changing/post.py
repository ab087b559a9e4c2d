"""Where a camera's frames of one recipe are inspected: the lane on duty, and those that come and go around a swap.

::

    candidate --its worker is ready--> on duty --relieved--> warm (guarded) or leaving
                 one assignment                    warm --guard satisfied--> leaving
                                                   warm --guard violated---> on duty again
    leaving: its frames are answered, its worker ends, its memory is given back

Rules:

* A frame belongs to the lane that was on duty when it came, for good.
* What was on duty before stays so until the candidate's worker is ready, which it is when it has answered the golden
  frames of its template. A candidate has one attempt: dead or too late, it is refused.
* ``swap: stop``: the new lane goes on duty at once and its worker is held until the old one is gone; frames wait in it.
  If that worker does not become ready, what it has is answered ``activation_refused`` and a lane with the old
  assignment takes over.
* While a guard watches, whoever was on duty before (the last lane that passed its guard) stays warm.

Nothing here waits. Times are monotonic nanoseconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from runtime.changing.guard import Guard
from runtime.changing.swap import Swap, SwapState
from runtime.inspection import ErrorWord
from runtime.lane.assignment import Assignment
from runtime.lane.lane import Answer, Lane
from runtime.lane.tally import Tally
from runtime.lane.track import Summary
from runtime.lane.workers import Workers
from runtime.ledger import Event
from runtime.lifecycle import State

log = logging.getLogger("edgead.host")

#: What is to be published: answers, each with the lane it comes from.
Answers = list[tuple[Lane, Answer]]
#: How often it is looked whether a worker that was asked to end is gone.
LOOK_NS = 20_000_000


class Post:
    """One recipe of one camera. ``tally``: the camera's; ``workers``: the host's, None: nothing is shared."""

    def __init__(self, assignment: Assignment, tally: Tally, workers: Workers | None = None) -> None:
        self._tally = tally
        self._workers = Workers() if workers is None else workers
        self.lane = Lane(assignment, tally, self._workers)
        self.candidate: Lane | None = None
        self.warm: Lane | None = None
        self.leaving: list[Lane] = []
        #: Lanes whose worker has ended: whoever takes them gives their memory back.
        self.ended: list[Lane] = []
        self.preparing: Swap | None = None
        self.guarded: Swap | None = None
        #: Swaps that failed by themselves: what the store calls active should go back too.
        self.undone: list[Swap] = []
        self._proven: Assignment | None = None  # what the guard goes back to where no lane is warm
        self._before = Summary(0, 0.0, 0.0, 0)
        self._guard: Guard | None = None
        self._seen = self._deaths = 0
        self._is_closed = False

    def lanes(self) -> Iterator[Lane]:
        """Every lane that lives: frames in it, or a worker."""
        if not self._is_closed:
            yield self.lane
            if self.candidate is not None:
                yield self.candidate
            if self.warm is not None:
                yield self.warm
        yield from self.leaving

    @property
    def coming(self) -> Lane | None:
        """The lane whose worker is being prepared, on duty already or not; None if there is none."""
        return None if self.preparing is None else self.candidate or self.lane

    @property
    def is_gone(self) -> bool:
        """Whether a closed post has no lane any more."""
        return self._is_closed and not self.leaving

    def next_due_ns(self, now_ns: int) -> int | None:
        """Return when ``turn`` has something to look at, or None."""
        return now_ns + LOOK_NS if any(lane.worker.state is State.STOPPING for lane in self.leaving) else None

    # --- asked for ----------------------------------------------------------------------------------------------

    def begin(self, swap: Swap, now_ns: int) -> Answers:
        """Begin a swap; one that is being prepared is refused first. Returns what that leaves to be answered.

        Raises ``OSError`` where there is no shared memory for the new lane: then nothing has begun.
        """
        fresh = Lane(swap.after, self._tally, self._workers)
        answers = self.cancel("another change came before it was ready", now_ns)
        self.preparing = swap
        self._tell(swap.event("begin"))
        log.info("%s: preparing %s", swap.after.label, swap.after.detector)
        if swap.after.camera.swap == "beside":
            fresh.worker.courteous = True
            self.candidate = fresh
            return answers
        self._end_guard(SwapState.ACTIVE, f"relieved by {swap.id} while it was guarded")
        old, self.lane = self.lane, fresh
        fresh.worker.held = True
        if self._proven is None:  # else what is relieved has not passed its guard: nothing to be measured by
            self._proven, self._before = old.assignment, old.track.summary()
        self._leave(old, self.warm)
        self.warm = None
        return answers

    def cancel(self, why: str, now_ns: int) -> Answers:
        """Refuse the swap that is being prepared, if there is one. Returns what that leaves to be answered."""
        return [] if self.preparing is None else self._refuse(why, now_ns)

    def take_back(self, why: str) -> bool:
        """Return to the lane that is kept warm, if there is one, as the guard does."""
        if self.warm is None:
            return False
        self._roll_back(why, asked=True)
        return True

    def close(self, why: str, now_ns: int) -> Answers:
        """End every lane once its frames are answered; nothing comes in any more. Returns what is to be answered."""
        answers = self.cancel(why, now_ns)
        self._end_guard(SwapState.ACTIVE, why)
        self._leave(self.lane, self.warm)
        self.warm = None
        self._is_closed = True
        return answers

    # --- a turn of the loop -------------------------------------------------------------------------------------

    def turn(self, now_ns: int) -> Answers:
        """Take every step that is due. Returns what a refused swap leaves to be answered."""
        answers = self._look_at_preparation(now_ns)
        if self._guard is not None:
            self._look_at_guard(self._guard)
        for lane in [*self.leaving]:
            self._see_off(lane, now_ns)
        if self.lane.worker.held and not self.leaving:
            self.lane.worker.held = False
        return answers

    def _look_at_preparation(self, now_ns: int) -> Answers:
        if self.preparing is None or self.coming is None:
            return []
        worker = self.coming.worker
        if worker.state is State.READY:
            self._take_over(self.preparing)
        elif worker.restarts:
            self.undone.append(self.preparing)
            return self._refuse(f"the worker {worker.last_error}", now_ns)
        else:
            worker.hurry_if_late(now_ns)
        return []

    def _take_over(self, swap: Swap) -> None:
        self.preparing = None
        may_return = True
        if self.candidate is not None:
            self.candidate.worker.hurry()
            old, self.lane, self.candidate = self.lane, self.candidate, None
            may_return = self.warm is not None or old.worker.state is not State.FAILED
            if may_return and swap.after.camera.guard is not None and self.warm is None:
                self.warm, self._before, self._proven = old, old.track.summary(), old.assignment
            else:  # not proven itself, nothing to go back to, or nobody asks
                self._leave(old)
        self._end_guard(SwapState.ACTIVE, f"relieved by {swap.id} while it was guarded")
        swap.flipped_ns = time.time_ns()
        log.info("%s: %s has taken over", swap.after.label, swap.after.detector)
        self._watch(swap, may_return=may_return)

    def _watch(self, swap: Swap, *, may_return: bool) -> None:
        """Set the guard over the lane that took over just now, where there is one."""
        settings = swap.after.camera.guard
        if settings is None or not may_return:
            self._tell(swap.move(SwapState.ACTIVE))
            self._let_warm_go()
            return
        self.guarded, swap.parts_watched = swap, settings.parts
        self._guard = Guard(settings, self._before, swap.after.camera.deadline_ms)
        self._seen, self._deaths = self.lane.track.total, self.lane.worker.own_deaths
        self._tell(swap.move(SwapState.GUARDED))

    def _look_at_guard(self, guard: Guard) -> None:
        if self.lane.worker.own_deaths != self._deaths:
            self._roll_back(f"the worker {self.lane.worker.last_error}")
            return
        for verdict, latency_us in self.lane.track.since(self._seen):
            why = guard.see(verdict, latency_us)
            if why is not None:
                self._roll_back(why)
                return
        self._seen = self.lane.track.total
        if self.guarded is not None:
            self.guarded.parts = guard.seen
        if guard.is_over:
            self._end_guard(SwapState.KEPT)
            self._let_warm_go()

    def _see_off(self, lane: Lane, now_ns: int) -> None:
        """Take a lane that leaves one step further, if its frames are answered."""
        if lane.worker.state is not State.STOPPING:
            if lane.pipeline.unanswered:
                return
            lane.worker.dismiss()
        if lane.ended(now_ns):
            self.leaving.remove(lane)
            self._tally.keep(lane.own_counts())
            self.ended.append(lane)

    # --- the ends of a swap -------------------------------------------------------------------------------------

    def _refuse(self, why: str, now_ns: int) -> Answers:
        swap, self.preparing = self.preparing, None
        if swap is None:
            return []
        log.warning("%s: %s is refused: %s", swap.after.label, swap.after.detector, why)
        answers: Answers = []
        if self.candidate is not None:
            self._leave(self.candidate)
            self.candidate = None
        else:
            failed = self.lane
            self._restore()
            self._leave(failed)
            answers = [(failed, answer) for answer in failed.abandon(now_ns, ErrorWord.ACTIVATION_REFUSED, why)]
        swap.before = self.lane.assignment  # the guard may have taken back what was there as the swap began
        self._tell(swap.move(SwapState.REFUSED, why))
        return answers

    def _roll_back(self, why: str, *, asked: bool = False) -> None:
        bad = self.lane
        if self.warm is not None:
            self.lane, self.warm = self.warm, None
        else:
            self._restore()
        self._leave(bad)
        log.warning("%s: %s is taken back: %s", bad.assignment.label, bad.assignment.detector, why)
        if self.guarded is not None:
            self.guarded.before = self.lane.assignment  # what inspects again, and what the store is to name
            if asked:
                self.guarded.who = "host"
            else:
                self.undone.append(self.guarded)
        self._end_guard(SwapState.ROLLED_BACK, why)
        self._proven = None

    def _restore(self) -> None:
        """Put a lane with the assignment from before on duty; its worker starts when the one it follows is gone."""
        self.lane = Lane(self._proven or self.lane.assignment, self._tally, self._workers)
        self.lane.starting_word = ErrorWord.ACTIVATION_REFUSED
        self.lane.worker.held = True
        self._proven = None

    def _end_guard(self, state: SwapState, why: str = "") -> None:
        swap, self.guarded, self._guard = self.guarded, None, None
        if swap is not None:
            self._tell(swap.move(state, why))

    def _let_warm_go(self) -> None:
        self._leave(self.warm)
        self.warm = self._proven = None

    def _leave(self, *lanes: Lane | None) -> None:
        for lane in lanes:
            if lane is not None:
                lane.worker.held = False
                self.leaving.append(lane)

    def _tell(self, detail: dict[str, object]) -> None:
        self._tally.news.append((Event.SWAP, detail))
