"""The jobs a camera's clients have started and not yet seen the end of, kept over restarts: what comes twice is one.

A job is open from ``start`` until its result is taken (or, without acknowledgement, shown) or the station has refused
it. While it is open, the same MeasId is the same job, raised under the same time, by which the station knows it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgead import ConfigError, StationError

#: Jobs one camera may have open: more than any client starts ahead of its parts.
MOST_OPEN = 256
_MOST_ID = 2**64


@dataclass(frozen=True, slots=True)
class Job:
    """One started job. ``number``: id of its trigger; ``raised_ns``: UTC, names the trigger with id and part."""

    number: int
    meas_id: str
    part_id: str
    recipe_id: str
    raised_ns: int


class Jobs:
    """The open jobs of one camera, in the file ``file``. Used by one thread."""

    def __init__(self, file: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Read what an earlier process left open; ``ConfigError`` if the file cannot be read."""
        self._file, self._now_ns = file, now_ns
        self._next = now_ns() // 1000  # for jobs that bring no number: never used before, also after a restart
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            self._open = {each["number"]: Job(**each) for each in found}
        except FileNotFoundError:
            self._open = {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{file}: expected the jobs an earlier process left open, cannot be read: {error}; remove it, with "
                "every part off the line"
            ) from error

    @property
    def open(self) -> tuple[Job, ...]:
        """Jobs that are open, in the order of their start."""
        return tuple(self._open.values())

    def start(self, meas_id: str, part_id: str, recipe_id: str) -> Job:
        """Write a job down and return it, or the open one of the same MeasId.

        A MeasId that is a number below 2^64 is its trigger's id; an empty one never names an open job. Raises
        ``StationError`` for a MeasId that is open with another part or recipe, too many open jobs, and a full disk.
        """
        number = int(meas_id) if meas_id.isascii() and meas_id.isdecimal() and int(meas_id) < _MOST_ID else None
        known = self._open.get(number) if number is not None else self._named(meas_id)
        if known is not None:
            if (known.meas_id, known.part_id, known.recipe_id) == (meas_id, part_id, recipe_id):
                return known
            raise StationError(
                f"expected a MeasId without an open job, found {meas_id!r} open for part {known.part_id!r}: take its "
                "result first"
            )
        if len(self._open) >= MOST_OPEN:
            raise StationError(f"expected at most {MOST_OPEN} open jobs, found as many: take their results first")
        if number is None:
            # Beside the numbers of clients, not beyond them: one of 2^64-1 would leave none.
            number = self._next = next(n for n in itertools.count(self._next + 1) if n not in self._open)
        job = self._open[number] = Job(number, meas_id, part_id, recipe_id, self._now_ns())
        try:
            self._write()
        except OSError as error:
            del self._open[number]
            raise StationError(f"{self._file}: a job cannot be written down: {error}") from error
        return job

    def of(self, trigger_id: int | None, part_id: str, raised_ns: int | None) -> Job | None:
        """Return the open job a result belongs to; None if it is nobody's here.

        ``raised_ns`` None: a host that was killed knows only number and part of what it left open.
        """
        job = None if trigger_id is None else self._open.get(trigger_id)
        if job is None or job.part_id != part_id or raised_ns not in (None, job.raised_ns):
            return None
        return job

    def close(self, number: int) -> Job | None:
        """End a job and return it; None if it was not open."""
        job = self._open.pop(number, None)
        if job is not None:
            with contextlib.suppress(OSError):  # read again after a restart, it is raised again: the station knows it
                self._write()
        return job

    def _named(self, meas_id: str) -> Job | None:
        return next((job for job in self._open.values() if meas_id and job.meas_id == meas_id), None)

    def _write(self) -> None:
        """Rename it into place: a kill leaves the old one or the new one."""
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps([asdict(job) for job in self._open.values()]), encoding="utf-8")
        unfinished.replace(self._file)
