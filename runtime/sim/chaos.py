"""A run through chaos: a real station, a camera that misbehaves, subscribers that vanish, a host that is killed.

Everything but the judgement happens in processes of its own. This one plays the service manager (a host that ends is
started again) and deals out the blows of the plan; what became of it all is then read from the ledger and the notes of
the others (``runtime.sim.verdicts``).
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runtime.client.ask import ask
from runtime.client.subscriber import ask_status
from runtime.errors import StationError
from runtime.local import free_addresses
from runtime.sim import announced, camera, follower
from runtime.sim.plan import DEADLINE_MS, Blow, Plan, PlannedBlow, draw_plan
from runtime.sim.process import Child, stall_meter
from runtime.sim.verdicts import CAMERA_FILE, DURABLE, DURABLE_FILE, LIVE_FILE, Evidence
from runtime.station.config import Station, load_station
from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.station import PRODUCT, host_command, put_template, write_station

Progress = Callable[[int, int, str], None]
HostCommand = Callable[[Path, Sequence[str]], list[str]]
#: What is told of a run while it goes on: one sentence at a time.
Tell = Callable[[str], None]

PLUGINS = ("runtime.testing.faulty",)
#: Of the two templates that are swapped: no part of the plan scores between them.
THRESHOLDS = (0.49, 0.5)
#: A worker that hangs is killed after so long; a worker's start, on a loaded machine.
_HANG_S = 2.0
_START_S = 120.0
#: How long a frame that overtook its trigger waits for it: four times as long as it is sent before.
_EARLY_MS = 200
#: How often the run looks at its processes, and asks a new host whether it answers.
_TURN_S, _PROBE_S = 0.01, 0.02
#: Pause before a host that ended by itself is started again, and how often that is done.
_RESTART_S, _MOST_ENDED = 0.5, 5
#: How long after the last receipt the durable subscriber may take to have everything, and a host to drain.
_SETTLE_S, _DRAIN_S = 60.0, 30.0


class Chaos:
    """One run. ``start_host``: command line of the host, replaced by tests that plant a bug.

    ``shared``: both cameras have one worker process between them.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        progress: Progress,
        tell: Tell,
        start_host: HostCommand,
        *,
        shared: bool = False,
    ) -> None:
        self.plan, self.folder = plan, folder
        self.down: list[tuple[int, int]] = []
        self.ended: list[str] = []
        self.dealt: Counter[str] = Counter()
        self._progress, self._tell = progress, tell
        path = prepare(folder, shared=shared)
        self.station: Station = load_station(path)
        self._stack = contextlib.ExitStack()
        log = self._stack.enter_context((folder / "run.log").open("wb"))
        self._host = Child(start_host(path, PLUGINS), log)
        module = [sys.executable, "-P", "-m"]
        follow = [*module, follower.__name__]
        durable = [str(self.station.deliveries), DURABLE, str(folder / DURABLE_FILE)]
        self._durable = Child([*follow, *durable], log)
        self._live = Child([*follow, self.station.results, follower.LIVE, str(folder / LIVE_FILE)], log)
        numbers = [str(plan.seed), str(len(plan.parts)), str(len([*_kills(plan)]))]
        sending = [*module, "runtime.sim.camera", self.station.frames, *numbers, str(folder / CAMERA_FILE)]
        self._camera = Child(sending, log, subprocess.PIPE)
        self._answered = 0
        self._blows = list(reversed(plan.blows))
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._down_since: int | None = None
        self._is_starting = False
        self._probe_at = 0.0

    def run(self) -> Evidence:
        """Run the plan and return what it left behind. Raises ``StationError`` where the run itself cannot go on."""
        with self._stack, stall_meter() as stalls:
            for each in (self._host, self._durable, self._live, self._camera):
                self._stack.callback(each.kill)
            self._host.start()
            self._wait(lambda: bool(self._ask().get("ready")), _START_S, "the station was not ready")
            self._durable.start()
            self._live.start()
            self._wait(lambda: bool(self._subscribers()), _START_S, "the durable subscriber did not subscribe")
            self._camera.start()
            self._send_everything()
            self._settle()
            self._host.signal(signal.SIGTERM)
            self._wait(lambda: self._host.status is not None, _DRAIN_S, "the host did not drain")
            if self._host.status:
                self.ended.append(f"exit status {self._host.status} after SIGTERM")
            longest = max(stalls)
        return Evidence(self.plan, self.folder, self.down, longest, self.ended)

    # --- the run ------------------------------------------------------------------------------------------------

    def _send_everything(self) -> None:
        told = self._camera.output
        os.set_blocking(told.fileno(), False)
        rest = b""
        while self._camera.status is None:
            *lines, rest = (rest + (told.read() or b"")).split(b"\n")
            if lines:
                self._answered = int(lines[-1])
                self._progress(self._answered, len(self.plan.parts), "chaos")
            self._turn()
        if self._camera.status:
            self._tell(f"the camera gave up (exit status {self._camera.status}): see {self.folder / 'run.log'}")
        self._progress(len(self.plan.parts), len(self.plan.parts), "chaos")

    def _turn(self) -> None:
        """Deal out what is due, see to the host, and rest a little."""
        while self._blows and self._answered >= self._blows[-1].answered:
            self._strike(self._blows.pop())
        while self._later and time.monotonic() >= self._later[0][0]:
            heapq.heappop(self._later)[2]()
        self._supervise()
        time.sleep(_TURN_S)

    def _supervise(self) -> None:
        """Start a host again that ended, and note when it answers."""
        if self._host.status is not None and not self._is_starting:
            self.ended.append(f"exit status {self._host.status} after {self._answered} parts")
            self._tell(f"the host ended by itself: {self.ended[-1]}")
            if len(self.ended) > _MOST_ENDED:
                raise StationError(f"the host ends again and again: see {self.folder / 'run.log'}")
            self._start_host_after(_RESTART_S)
        if self._down_since is not None and self._host.status is None and time.monotonic() >= self._probe_at:
            self._probe_at = time.monotonic() + _PROBE_S
            if self._ask():
                self.down.append((self._down_since, time.time_ns()))
                self._down_since = None

    def _strike(self, blow: PlannedBlow) -> None:
        self.dealt[blow.blow.value] += 1
        self._tell(f"{self._answered} parts answered: {blow.blow.value}")
        if blow.blow is Blow.KILL_HOST:
            self._kill_host(blow.seconds)
        elif blow.blow is Blow.KILL_WORKER:
            self._kill_worker()
        elif blow.blow is Blow.SWAP:
            self._swap()
        elif blow.blow in {Blow.FREEZE_DURABLE, Blow.FREEZE_LIVE}:
            frozen = self._durable if blow.blow is Blow.FREEZE_DURABLE else self._live
            frozen.signal(signal.SIGSTOP)
            self._after(blow.seconds, lambda: frozen.signal(signal.SIGCONT))
        else:
            vanished = self._durable if blow.blow is Blow.VANISH_DURABLE else self._live
            if vanished.status is None:  # else it is away already, and will be back
                vanished.kill()
                self._after(blow.seconds, vanished.start)

    def _kill_host(self, pause_s: float) -> None:
        """Kill the host, wherever in its turn it is, and start it again after a pause."""
        if self._is_starting:  # the last blow still holds
            return
        self._down_since = self._down_since or time.time_ns()
        self._host.kill()
        self._start_host_after(pause_s)

    def _start_host_after(self, pause_s: float) -> None:
        self._down_since, self._is_starting = self._down_since or time.time_ns(), True

        def start() -> None:
            self._is_starting = False
            self._host.start()

        self._after(pause_s, start)

    def _kill_worker(self) -> None:
        for each in self._ask().get("cameras", {}).values():
            if each.get("worker_pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each["worker_pid"], signal.SIGKILL)

    def _swap(self) -> None:
        """Activate the template that is not active, and ask the host to take it; one that is away will find it."""
        store = Store(self.station.store)
        active = store.active(PRODUCT, Faulty.name).digest
        other = next(digest for _, digest in store.listed() if digest != active)
        store.activate(other, who="chaos")
        with contextlib.suppress(StationError):
            answer = ask(self.station.status, {"op": "apply", "who": "chaos"}, 1.0)
            if not answer.get("ok"):
                self._tell(f"the swap was refused: {answer.get('error')}")

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._later, (time.monotonic() + seconds, self._order, action))

    def _settle(self) -> None:
        """End every blow, and wait until the durable subscriber has everything it is owed."""
        self._blows.clear()
        give_up = time.monotonic() + _SETTLE_S
        while self._later or self._down_since is not None or self._lag_of_durable() != 0:
            self._turn()
            if time.monotonic() > give_up:
                self._tell(f"the durable subscriber still lacks results after {_SETTLE_S:g} s")
                return

    def _lag_of_durable(self) -> int | None:
        lag: int | None = self._subscribers().get(DURABLE, {}).get("lag")
        return lag

    def _subscribers(self) -> dict[str, Any]:
        found: dict[str, Any] = (self._ask().get("deliveries") or {}).get("subscribers", {})
        return found

    def _ask(self) -> dict[str, Any]:
        """Return the station's status, empty while nobody answers."""
        try:
            return ask_status(self.station.status, 0.5)
        except StationError:
            return {}

    def _wait(self, reached: Callable[[], bool], seconds: float, otherwise: str) -> None:
        give_up = time.monotonic() + seconds
        while not reached():
            if self._host.status:
                raise StationError(
                    f"{otherwise}: the host ended with {self._host.status}, see {self.folder / 'run.log'}"
                )
            if time.monotonic() > give_up:
                raise StationError(f"{otherwise} within {seconds:g} s: see {self.folder / 'run.log'}")
            time.sleep(0.05)


def run_chaos(
    seed: int,
    triggers: int,
    kills: int,
    folder: Path,
    *,
    shared: bool = False,
    progress: Progress = lambda _done, _total, _what: None,
    tell: Tell = lambda _sentence: None,
    start_host: HostCommand = host_command,
) -> tuple[Evidence, dict[str, Any]]:
    """Run the plan of a seed in ``folder``, which must be empty; return what it left behind and figures of the run.

    ``shared``: its cameras share a worker. Raises ``StationError`` where the station never became ready or did not end.
    """
    chaos = Chaos(draw_plan(seed, triggers, kills), folder, progress, tell, start_host, shared=shared)
    begun = time.monotonic()
    evidence = chaos.run()
    seconds = time.monotonic() - begun
    down_s = sum(end - begin for begin, end in evidence.down) / 1e9
    return evidence, {
        "seconds": round(seconds, 1),
        "per_second": round(triggers / seconds, 1),
        "blows": dict(sorted(chaos.dealt.items())),
        "down_s": round(down_s, 2),
        "stall_ms": round(evidence.stall_ms, 1),
    }


def prepare(folder: Path, *, shared: bool = False) -> Path:
    """Return a station file for the run, with two templates of ``faulty``, in an empty folder."""
    store = Store.create(folder / "store")
    for threshold in THRESHOLDS:
        put_template(store, Faulty(), threshold)
    settings = {"product": PRODUCT, "detector": "faulty", "deadline_ms": DEADLINE_MS, "queue": 64}
    settings["worker"] = "shared" if shared else "own"
    ahead = settings | {"triggers": "ahead", "early_ms": _EARLY_MS}
    return write_station(
        folder,
        {camera.CAMERA: settings, announced.CAMERA: ahead},
        deliveries=free_addresses(1)[0],
        max_frame_bytes=1024 * 1024,
        ledger={"trigger_repeat_s": 3600.0, "evidence": {"ok_every": 20}},
        # A worker that failed for good would leave nothing to be seen; how it fails is tested elsewhere.
        worker={"threads": 1, "hang_s": _HANG_S, "restart_budget": 1000, "self_test_s": 0.0},
    )


def _kills(plan: Plan) -> Iterator[PlannedBlow]:
    return (each for each in plan.blows if each.blow is Blow.KILL_HOST)
