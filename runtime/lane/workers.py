"""Which worker process a lane has its seat in: one of its own, or one shared by lanes that need the same engine."""

from __future__ import annotations

import json
from typing import Any

from runtime.lane.assignment import Assignment
from runtime.lane.seat import Seat
from runtime.lane.supervisor import Supervisor
from runtime.station.config import Worker
from runtime.worker.slots import Slots


class Workers:
    """The shared processes of one host."""

    def __init__(self) -> None:
        self._shared: dict[str, Supervisor] = {}

    def seat(self, assignment: Assignment, slots: Slots) -> Seat:
        """Return a lane's seat. One that asks to share sits down with those there are, or begins a new process."""
        limits = limits_of(assignment.station.worker)
        if not assignment.shares:
            return Supervisor(**limits).seat(assignment.label, assignment.setup, slots)
        key = json.dumps(assignment.engine_setup, sort_keys=True)
        supervisor = self._shared.get(key)
        if supervisor is None or supervisor.is_closed:
            supervisor = self._shared[key] = Supervisor(shared=True, **limits)
            self._shared = {each: one for each, one in self._shared.items() if not one.is_closed}
        return supervisor.seat(assignment.label, assignment.setup, slots)


def limits_of(worker: Worker) -> dict[str, Any]:
    """Return what a supervisor is told of the station file's worker settings."""
    names = ("start_timeout_s", "hang_s", "restart_budget", "restart_window_s", "self_test_s")
    return {name: getattr(worker, name) for name in names}
