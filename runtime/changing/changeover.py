"""Makes a running station what its file says: what the host holds itself at once, workers one swap after another.

Workers are exchanged one at a time, so that the memory that was looked up is still there and the workers that inspect
share the machine with one that loads, never with several. Everything that takes long is an errand.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.changing.post import Answers, Post
from runtime.changing.route import Key, Routes
from runtime.changing.swap import Swap, SwapState
from runtime.changing.wanted import Wanted, read_wanted
from runtime.errands import Errands
from runtime.errors import ConfigError, EdgeadError
from runtime.lane.assignment import Assignment
from runtime.lane.memory import shortage
from runtime.ledger import Event
from runtime.station.config import Station
from runtime.store import Store

log = logging.getLogger("edgead.host")

#: Requests and swaps that the status still shows.
MOST_SHOWN = 20
#: Longest reason written into the store's log, in characters.
_MOST_WHY = 500
#: Plans made at a time: each may read a whole bank, and whoever asks for more need not have them wait in memory.
MOST_PLANS = 4
_STOPPING = "the station is stopping"


@dataclass
class Apply:
    """One request to make the running station what its file says.

    ``state``: preparing until the file is checked, then refused or accepted; ``swaps``: ids of those it asked for.
    """

    id: str
    who: str
    reason: str
    state: str = "preparing"
    why: str = ""
    changes: list[str] = field(default_factory=list)
    swaps: list[str] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        """Return the request's part of `edgead status --json`."""
        return {
            "id": self.id,
            "who": self.who,
            "reason": self.reason,
            "state": self.state,
            "why": self.why,
            "changes": self.changes,
            "swaps": self.swaps,
        }


class Changeover:
    """The changes of one host. ``path``: its station file, None if it was started without one."""

    def __init__(
        self, station: Station, path: Path | None, builtins: tuple[str, ...], routes: Routes, errands: Errands
    ) -> None:
        self.applies: deque[Apply] = deque(maxlen=MOST_SHOWN)
        self.swaps: deque[Swap] = deque(maxlen=MOST_SHOWN)
        self._wanted = station
        self._path = None if path is None else path.resolve()
        self._builtins = builtins
        self._routes = routes
        self._errands = errands
        self._waiting: deque[Swap] = deque()
        self._ids = itertools.count(1)
        self._checking: Apply | None = None
        self._again = False
        self._plans = 0
        self._arrived: list[tuple[Apply, Wanted]] = []
        self._is_stopping = False
        #: Told the station file that is applied; whoever keeps processes beside the host sets it.
        self.applied: Callable[[Station], None] = lambda _station: None

    @property
    def station(self) -> Station:
        """The station as it runs."""
        return self._routes.station(self._wanted)

    @property
    def file(self) -> str | None:
        """The station file that is applied."""
        return None if self._path is None else str(self._path)

    # --- apply --------------------------------------------------------------------------------------------------

    def apply(self, who: str, reason: str = "", file: str | None = None) -> Apply:
        """Begin to make the station what its file says; the outcome is in the status. A check under way is repeated.

        ``file``: which one whoever asks thinks it is. Raises ``ConfigError`` if it is another, or there is none.
        """
        path = self._expect_file(file)
        if self._checking is not None:
            self._again = True  # the file may have changed after it was read
            return self._checking
        request = Apply(f"a{next(self._ids)}", who, reason)
        self.applies.append(request)
        self._check(request, path)
        return request

    def hang_up(self) -> None:
        """Apply the file because of SIGHUP: nobody waits for an answer."""
        try:
            self.apply("SIGHUP")
        except ConfigError as error:
            log.warning("SIGHUP: %s", error)

    def plan(self, file: str | None, answer: Callable[[dict[str, Any]], None]) -> None:
        """Read the station file and answer what it would change. Raises ``ConfigError`` as ``apply`` does.

        And where ``MOST_PLANS`` are being made already.
        """
        path, running, templates = self._expect_file(file), self.station, self._templates()
        if self._plans >= MOST_PLANS:
            raise ConfigError(f"expected at most {MOST_PLANS} plans at a time, found {self._plans}: ask again")
        self._plans += 1

        def done(result: Wanted | EdgeadError) -> None:
            self._plans -= 1
            if isinstance(result, EdgeadError):
                answer({"ok": False, "error": str(result)})
            else:
                answer({"ok": True, "plan": result.plan.as_json()})

        self._errands.run(lambda: read_wanted(path, running, templates, self._builtins), done)

    def _expect_file(self, file: str | None) -> Path:
        if self._path is None:
            raise ConfigError("the host was started without a station file: there is nothing to read again")
        # As text: a path that somebody sends may be none, or lie on a disk that does not answer.
        if file is not None and file != str(self._path):
            raise ConfigError(f"expected the station file this host was started with, {self._path}, found {file}")
        return self._path

    def _templates(self) -> dict[Key, str]:
        return {lane.assignment.key: lane.template.digest for lane in self._routes.on_duty()}

    def _check(self, request: Apply, path: Path) -> None:
        self._checking, self._again = request, False
        running, templates = self.station, self._templates()
        self._errands.run(
            lambda: read_wanted(path, running, templates, self._builtins).expect_no_restart(path),
            lambda result: self._checked(request, path, result),
        )

    def _checked(self, request: Apply, path: Path, result: Wanted | EdgeadError) -> None:
        if self._again and not self._is_stopping:
            self._check(request, path)
            return
        self._checking = None
        if isinstance(result, EdgeadError):
            self._refuse(request, str(result))
        elif self._is_stopping:
            self._refuse(request, _STOPPING)
        else:
            self._arrived.append((request, result))

    def _refuse(self, request: Apply, why: str) -> None:
        request.state, request.why = "refused", why
        log.warning("the station file is not applied: %s", why)

    def _enact(self, request: Apply, wanted: Wanted, now_ns: int) -> Answers:
        """Do what needs no worker at once, and line up the swaps."""
        for name, route in self._routes.by_camera.items():
            if route.current and name in wanted.station.cameras and (name, route.current) not in wanted.assignments:
                self._refuse(request, f"recipe {route.current} of camera {name} is current: pick another one first")
                return []
        request.state, request.changes = "accepted", [change.sentence for change in wanted.plan.changes]
        self._wanted = wanted.station
        answers: Answers = []
        known = {lane.assignment.key for lane in self._routes.on_duty()}
        for key in known - wanted.assignments.keys():
            answers += self._routes.remove(key, now_ns)
        for key, assignment in wanted.assignments.items():
            post = self._routes.post(key)
            if post is None:
                self._add(request, assignment)
            else:
                answers += self._change(request, post, assignment, now_ns)
        self.applied(wanted.station)
        log.info("the station file is applied: %d changes, swaps %s", len(request.changes), request.swaps or "none")
        return answers

    def _add(self, request: Apply, assignment: Assignment) -> None:
        why = shortage(assignment, self._routes.living())
        if assignment.recipe and self._routes.post((assignment.name, "")) is None:
            why = "its camera was refused"
        if why is None:
            try:
                self._routes.add(assignment)
            except OSError as error:
                why = f"no shared memory for its frames: {error}"
        if why is not None:
            self._turn_down(self._swap(request, assignment, assignment), why)
            return
        detail = {"camera": assignment.name, "recipe": assignment.recipe, **assignment.described()}
        self._routes.note(assignment.name, Event.IN_USE, detail)

    def _change(self, request: Apply, post: Post, assignment: Assignment, now_ns: int) -> Answers:
        """Have a post inspect with ``assignment``: by the lane it has, by one it has just left, or by a new one."""
        setup = assignment.setup
        self._forget(assignment.key)
        coming = post.coming
        if coming is not None and coming.setup == setup and post.preparing is not None:
            coming.configure(assignment)
            post.preparing.after = assignment  # its guard may be another
            request.swaps.append(post.preparing.id)
            return []
        if post.lane.setup == setup:
            post.lane.configure(assignment)
            return post.cancel("the station file no longer asks for it", now_ns)
        if post.warm is not None and post.warm.setup == setup:
            answers = post.cancel("the station file no longer asks for it", now_ns)
            post.take_back("the station file asks for what ran before")
            post.lane.configure(assignment)
            return answers
        answers = post.cancel("another change came before it was ready", now_ns)
        if post.lane.setup == setup:  # what is on duty again after a `swap: stop` that was cut short
            post.lane.configure(assignment)
        else:
            self._waiting.append(self._swap(request, post.lane.assignment, assignment))
        return answers

    def _swap(self, request: Apply, before: Assignment, after: Assignment) -> Swap:
        swap = Swap(next(self._ids), request.id, before, after)
        self.swaps.append(swap)
        request.swaps.append(swap.id)
        return swap

    def _forget(self, key: Key) -> None:
        """Give up a swap of this post that has not begun: another request came."""
        for swap in [each for each in self._waiting if each.after.key == key]:
            self._waiting.remove(swap)
            swap.move(SwapState.REFUSED, "another change came before it began")

    # --- a turn of the loop -------------------------------------------------------------------------------------

    def turn(self, now_ns: int) -> Answers:
        """Take every step that is due: enact what was checked, begin the next swap, tell the store of one undone."""
        answers: Answers = []
        while self._arrived:
            answers += self._enact(*self._arrived.pop(0), now_ns)
        while self._waiting and not any(post.preparing is not None for post in self._routes.posts()):
            answers += self._begin(self._waiting.popleft(), now_ns)
        for post in self._routes.posts():
            while post.undone:
                self._undo(post.undone.pop(0))
        return answers

    def _begin(self, swap: Swap, now_ns: int) -> Answers:
        post = self._routes.post(swap.after.key)
        if post is None:
            swap.move(SwapState.REFUSED, "its camera or recipe was taken out of the station file")
            return []
        swap.before = post.lane.assignment
        # A worker that others share does not end for this swap, whatever the file asks for.
        is_beside = swap.after.camera.swap == "beside" or bool(post.lane.worker.shared_with)
        why = shortage(swap.after, self._routes.living()) if is_beside else None
        if why is not None:
            self._turn_down(swap, why)
            return []
        try:
            return post.begin(swap, now_ns)
        except OSError as error:  # no descriptors or address space left: the lane there is goes on
            self._turn_down(swap, f"no shared memory for its frames: {error}")
            return []

    def _turn_down(self, swap: Swap, why: str) -> None:
        """Refuse a swap that has not begun."""
        log.warning("%s: %s is refused: %s", swap.after.label, swap.after.detector, why)
        self._routes.note(swap.after.name, Event.SWAP, swap.move(SwapState.REFUSED, why))

    def _undo(self, swap: Swap) -> None:
        """Have the store name the old template again, so that a restart does not come up with the one that failed."""
        before, after = swap.before.template, swap.after.template
        ref, other = [(each.manifest.product, each.manifest.detector.name) for each in (before, after)]
        if ref != other or before.digest == after.digest:
            log.warning("%s: the station file still asks for %s", swap.after.label, swap.after.detector)
            return
        who = "guard" if swap.state is SwapState.ROLLED_BACK else "host"
        root, why = swap.after.station.store, f"swap {swap.id} {swap.state}: {swap.why}"[:_MOST_WHY]
        self._errands.run(
            lambda: Store(root).undo(after.digest, before.digest, who=who, why=why),
            lambda result: self._told(swap, result),
        )

    def _told(self, swap: Swap, result: bool | EdgeadError) -> None:
        if isinstance(result, EdgeadError):
            log.error("%s: the store still names %s: %s", swap.after.label, swap.after.detector, result)
        elif result:
            log.info("%s: the store names template %s again", swap.after.label, swap.before.template.digest[:12])

    def stop(self, now_ns: int) -> Answers:
        """Refuse what has not taken over: the station is stopping."""
        self._is_stopping = True
        while self._waiting:
            self._waiting.popleft().move(SwapState.REFUSED, _STOPPING)
        while self._arrived:
            self._refuse(self._arrived.pop()[0], _STOPPING)
        return [each for post in self._routes.posts() if post.candidate for each in post.cancel(_STOPPING, now_ns)]
