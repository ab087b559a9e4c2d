"""A post whose workers are played by the test, with a clock of its own: for tests of swaps, without a process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, cast

import msgpack

from runtime.changing.post import Post
from runtime.changing.swap import Swap
from runtime.frame import FrameHeader, PixelFormat
from runtime.host.publication import inspection_of
from runtime.lane.assignment import Assignment
from runtime.lane.lane import Answer, Lane
from runtime.lane.supervisor import STOP_S
from runtime.lane.tally import Tally
from runtime.lifecycle import State
from runtime.station.config import Guard, Station
from runtime.testing.faulty import MAP_SIDE
from runtime.testing.played_worker import PlayedWorker

MS = 1_000_000
MAP_BYTES = MAP_SIDE * MAP_SIDE * 2
PIXELS = memoryview(bytes(range(6)))
#: Answers with the lane they came from, in the order they came.
Left = list[tuple[Lane, Answer]]


class PlayedPost:
    """One post and everything that left it. ``assign(template, **camera)`` makes assignments.

    Wants ``runtime.lane.workers.Supervisor`` to be ``PlayedSupervisor``. Close it: descriptors and memory are real.
    """

    def __init__(self, assign: Callable[..., Assignment], **camera: Any) -> None:
        self.assign = assign
        self.tally = Tally()
        self.now_ns = 0
        self.left: Left = []
        self.came: dict[int, Lane] = {}
        self._numbers = itertools.count(1)
        self._swaps = itertools.count(1)
        self.post = Post(assign(0, **camera), self.tally)
        self._all = {self.post.lane}

    def close(self) -> None:
        """Release what a host, its workers and the kernel would have released."""
        for lane in self._all:
            lane.worker.stop(STOP_S)
            lane.release()
            if self.worker(lane).starts:
                self.worker(lane).end.close()

    # --- what a host does ---------------------------------------------------------------------------------------

    def turn(self, ms: int = 0) -> None:
        """Let time pass and take one turn of the loop: read workers, advance lanes, take steps."""
        self.now_ns += ms * MS
        self._all.update(self.post.lanes())  # one that only loads may be gone at the turn's end
        for lane in [*self.post.lanes()]:
            if lane.worker.link is not None:
                self._note(lane, list(lane.read_worker(self.now_ns)))
        for lane in [*self.post.lanes()]:
            self._note(lane, lane.advance(self.now_ns))
        for lane, answer in self.post.turn(self.now_ns):
            self._note(lane, [answer])
        self._all.update(self.post.lanes())

    def _note(self, lane: Lane, answers: list[Answer]) -> None:
        for answer in answers:
            self.left.append((lane, answer))
            lane.track.add(inspection_of(lane, answer, seq=len(self.left), station="test", run_id="run"))

    def bring(self, deadline_ns: int | None = None) -> int:
        """Bring a frame to the lane on duty; return its number."""
        number, lane = next(self._numbers), self.post.lane
        self.came[number] = lane
        header = FrameHeader("top", 1, number, 2, 3, PixelFormat.MONO8, 0)
        at_once = lane.take(header, PIXELS, number, self.now_ns, 0, deadline_ns=deadline_ns)
        self._note(lane, [at_once] if at_once is not None else [])
        lane.dispatch(self.now_ns)
        return number

    def swap(self, template: int, **camera: Any) -> Swap:
        """Begin a swap to a template."""
        number = next(self._swaps)
        swap = Swap(number, f"a{number}", self.post.lane.assignment, self.assign(template, **camera))
        for lane, answer in self.post.begin(swap, self.now_ns):
            self._note(lane, [answer])
        self._all.update(self.post.lanes())
        return swap

    # --- what workers do ----------------------------------------------------------------------------------------

    def worker(self, lane: Lane | None) -> PlayedWorker:
        """Return a lane's played worker."""
        if lane is None:
            raise ValueError("expected a lane, found none")
        return cast("PlayedWorker", lane.worker)

    def say(self, lane: Lane | None, record: dict[str, Any]) -> None:
        """Have a lane's worker say something, and the host hear it."""
        self.worker(lane).end._socket.send(msgpack.packb(record))  # noqa: SLF001 - the worker's end is the test's
        self.turn()

    def ready(self, lane: Lane | None) -> None:
        """Have a lane's worker load and be ready."""
        self.turn()
        self.say(lane, {"op": "ready"})

    def die(self, lane: Lane | None) -> None:
        """Have a lane's worker die."""
        self.worker(lane).end.close()
        self.turn()

    def answer(self, lane: Lane | None, score: float = 0.25) -> bool:
        """Have a lane's worker answer the oldest frame it holds; False if it holds none."""
        if lane is None or lane.worker.state is not State.READY or not lane.pipeline.busy_since_ns:
            return False
        number = lane.pipeline._in_flight[0].number  # noqa: SLF001 - what a worker would have been sent
        info = {"encoding": "raw", "dtype": "float16", "height": MAP_SIDE, "width": MAP_SIDE}
        record = {"op": "done", "ticket": number, "score": score, "detect_us": 5, "map": info}
        self.say(lane, record | {"map_bytes": MAP_BYTES, "preview_bytes": 0})
        return True

    def inspect(self, count: int, score: float = 0.25) -> None:
        """Bring frames one after another, each answered by the worker it was given to."""
        for _ in range(count):
            number = self.bring()
            self.answer(self.came[number], score)


def guarded(parts: int = 10) -> dict[str, Any]:
    """Return a camera's key for a guard over ``parts``."""
    return {"guard": Guard(parts=parts)}


def one_camera(station: Station, **camera: Any) -> Station:
    """Return a station with keys of its camera replaced."""
    return station.model_copy(update={"cameras": {"top": station.cameras["top"].model_copy(update=camera)}})
