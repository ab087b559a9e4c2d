"""`edgead plugins check`: every promise of a detector, checked in a process of its own, under a time limit.

A detector that hangs, crashes or is killed fails the promise it was at; the rest is checked in a new process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.apart import EndedError, records
from calibration.conformance.outcomes import PROMISES, Outcome
from calibration.conformance.wheel import install
from runtime.errors import ConfigError

Tell = Callable[[int, int, str], None]

#: Seconds one promise may take; the slowest of the shipped detectors' takes ten.
LIMIT_S = 120.0
#: Frames inspected to see whether memory grows.
FRAMES = 240
_PROCESS = "calibration.conformance.process"


@dataclass(frozen=True, kw_only=True)
class Check:
    """What is to be checked.

    ``what``: names of detectors, or the path of one wheel. ``settings``, ``presets``: of a detector, by its name;
    under "" for all. ``paths``: folders imports are looked for in first.
    """

    what: Sequence[str]
    settings: dict[str, list[str]] = field(default_factory=dict)
    presets: dict[str, str] = field(default_factory=dict)
    limit_s: float = LIMIT_S
    frames: int = FRAMES
    paths: tuple[Path, ...] = ()


def check(request: Check, builtins: Sequence[str], tell: Tell) -> list[Outcome]:
    """Check the detectors and return one outcome for each promise of each of them, in order.

    ``builtins``: modules of the shipped plugins. Raises ``ConfigError`` for an unknown detector, a file that is no
    wheel, and a wheel that brings no detector.
    """
    with tempfile.TemporaryDirectory(prefix="edgead-check-") as scratch:
        folder, paths = Path(scratch), list(request.paths)
        distribution = None
        if len(request.what) == 1 and request.what[0].endswith(".whl"):
            (folder / "wheel").mkdir()
            distribution = install(Path(request.what[0]), folder / "wheel")
            paths.insert(0, folder / "wheel")
        run = _Run(request, builtins, distribution, folder, tell)
        while not run.finished:
            run.go_on(paths)
        return run.outcomes


class _Run:
    """Processes one after the other, until every promise has an outcome."""

    def __init__(
        self, request: Check, builtins: Sequence[str], distribution: str | None, folder: Path, tell: Tell
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.finished = False
        self._request, self._tell, self._distribution = request, tell, distribution
        self._names = [] if distribution else list(request.what)
        self._current: tuple[str, str] | None = None
        self._job: dict[str, Any] = {
            "builtins": list(builtins), "distribution": distribution, "frames": request.frames, "folder": str(folder),
        }  # fmt: skip

    def go_on(self, paths: Sequence[Path]) -> None:
        """Run one process as far as it comes."""
        done: dict[str, dict[str, str]] = {}
        for each in self.outcomes:
            done.setdefault(each.detector, {})[each.promise] = each.state
        job = self._job | {"detectors": self._names, "done": done} | self._chosen()
        self._current = None
        try:
            with closing(records(_PROCESS, job, silence_s=self._request.limit_s, paths=paths)) as reported:
                for record in reported:
                    self._take(record)
                    if self.finished:  # how a process ends that has said all is of no interest: it is killed
                        return
            ended = "the process ended with status 0 in the middle"
        except EndedError as error:
            ended = str(error)
        self._blame(ended)

    def _chosen(self) -> dict[str, Any]:
        request = self._request
        names = self._names or [""]
        settings = {name: [*request.settings.get("", []), *request.settings.get(name, [])] for name in names}
        presets = {name: request.presets.get(name) or request.presets.get("") for name in names}
        return {"settings": settings, "presets": {name: each for name, each in presets.items() if each}}

    def _take(self, record: dict[str, Any]) -> None:
        if "found" in record:
            self._names = self._checked(record)
        elif "begin" in record:
            self._current = (record["begin"][0], record["begin"][1])
            self._tell(len(self.outcomes), len(self._names) * len(PROMISES), "checking promises")
        elif "end" in record:
            self.outcomes.append(Outcome(**record["end"]))
            self._current = None
        self.finished = self.finished or "finished" in record

    def _checked(self, record: dict[str, Any]) -> list[str]:
        unknown = [name for name in self._names if name not in record["known"]]
        if unknown:
            raise ConfigError(
                f"expected a detector of {', '.join(record['known'])}, or the path of a wheel, found {unknown[0]!r}"
            )
        if not record["found"]:
            why = f"it is broken: {'; '.join(record['broken'])}" if record["broken"] else "it registers none"
            raise ConfigError(
                f"expected a detector in {self._distribution}, found none: {why}; what it depends on must be installed "
                "here, and its entry point belongs to group edgead"
            )
        return list(record["found"])

    def _blame(self, cause: str) -> None:
        """Let the promise that was being checked fail; the next process goes on behind it."""
        if self._current is None:
            raise ConfigError(f"expected a process that loads the plugins, found none: {cause}")
        detector, promise = self._current
        advice = "give back control within the limit, or raise --limit" if "hangs" in cause else ""
        self.outcomes.append(Outcome(detector, promise, "fail", cause, advice, 0.0))
