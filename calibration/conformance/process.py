"""The process a detector is checked in: reads what to check, says when each promise begins, and what became of it."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.conformance.outcomes import PROMISES, BrokenError, NotedError, Outcome, Promise
from runtime.errors import EdgeadError
from runtime.registry import Registry, load_plugins

if TYPE_CHECKING:
    from calibration.conformance.subject import Subject

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class _Job:
    """What the parent wrote; see ``calibration.conformance.kit``."""

    builtins: list[str]
    detectors: list[str]
    distribution: str | None
    settings: dict[str, list[str]]
    presets: dict[str, str]
    frames: int
    folder: str
    done: dict[str, dict[str, str]]


def run(record: dict[str, Any], report: Report) -> None:
    """Check every promise that is not ``done`` yet, one detector after the other."""
    job = _Job(**record)
    registry = load_plugins(job.builtins)
    brought_torch = "torch" in sys.modules
    names = job.detectors or [
        name for name, each in sorted(registry.detectors.items()) if each.distribution == job.distribution
    ]
    broken = [each.error for each in registry.broken if each.distribution == job.distribution]
    report({"found": names, "broken": broken, "known": sorted(registry.detectors)})
    checkers = [_Checker(registry, name, job, report) for name in names if name in registry.detectors]
    for checker in checkers:  # all of them before the first one that calculates brings torch in
        checker.judge(PROMISES[0], lambda each=checker: each.loads(brought_torch=brought_torch))  # type: ignore[misc]
    for checker in checkers:
        for promise in PROMISES[1:]:
            checker.judge(promise, lambda each=checker, one=promise: _function(one)(each.subject))  # type: ignore[misc]
        checker.__dict__.pop("subject", None)  # the next one has the memory for itself
    report({"finished": True})


class _Checker:
    """One detector on its way through the promises."""

    def __init__(self, registry: Registry, name: str, job: _Job, report: Report) -> None:
        self._registry, self._name, self._job, self._report = registry, name, job, report
        self._states = dict(job.done.get(name, {}))

    def judge(self, promise: Promise, check: Callable[[], str]) -> None:
        """Say that a promise is being checked, and what became of it; one that is done already is passed over."""
        if promise.name in self._states:
            return
        self._report({"begin": [self._name, promise.name]})
        started = time.monotonic()
        missing = [need for need in promise.needs if self._states.get(need) in ("fail", "skip")]
        if missing:
            outcome = Outcome(self._name, promise.name, "skip", f"not judged without {', '.join(missing)}")
        else:
            outcome = _judged(self._name, promise, check)
        self._states[promise.name] = outcome.state
        self._report({"end": outcome.as_json() | {"seconds": round(time.monotonic() - started, 3)}})

    def loads(self, *, brought_torch: bool) -> str:
        """Make the detector; neither that nor loading the plugins may have imported torch."""
        detector = self._registry.detector(self._name)
        if brought_torch or "torch" in sys.modules:
            raise BrokenError(
                "loading the plugins, or making the detector, imports torch: every command waits for it",
                "import torch inside the functions that need it",
            )
        return f"{self._name} {detector.version}, {self._registry.detectors[self._name].distribution}"

    @cached_property
    def subject(self) -> Subject:
        """What the other promises are checked on."""
        from calibration.conformance.subject import Subject

        job, name = self._job, self._name
        settings = job.settings.get(name, job.settings.get("", []))
        preset = job.presets.get(name, job.presets.get(""))
        return Subject(self._registry, name, Path(job.folder), settings=settings, preset=preset, frames=job.frames)


def _function(promise: Promise) -> Callable[[Any], str]:
    module = importlib.import_module(f"calibration.conformance.{promise.where}")
    function: Callable[[Any], str] = getattr(module, promise.name)
    return function


def _judged(name: str, promise: Promise, check: Callable[[], str]) -> Outcome:
    """Call the check; whatever it raises is an outcome."""
    try:
        return Outcome(name, promise.name, "pass", check())
    except NotedError as noted:
        return Outcome(name, promise.name, "note", noted.detail, noted.advice)
    except BrokenError as broken:
        return Outcome(name, promise.name, "fail", broken.cause, broken.advice)
    except EdgeadError as error:
        return Outcome(name, promise.name, "fail", str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code: whatever it does is the outcome
        words = " ".join(str(error).split())
        return Outcome(name, promise.name, "fail", f"raised {type(error).__name__}: {words}{_place(error)}")


def _place(error: BaseException) -> str:
    """Return where in the plugin's own code it was raised, as the last frame that is neither torch's nor ours."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not _is_foreign(each.filename)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _is_foreign(file: str) -> bool:
    rooms = Path(__file__).parents[2]
    return "/torch/" in file or any(Path(file).is_relative_to(rooms / room) for room in ("calibration", "runtime"))


if __name__ == "__main__":
    from calibration.apart import serve

    serve(run)
