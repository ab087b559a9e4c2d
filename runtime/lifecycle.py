"""Where a worker or a whole station is in its life: one enum for both, and how the second follows from the first.

A worker::

    STARTING --ready--> READY --died or hung--> DEGRADED --ready--> READY
        |                                        |    |
        +--died-------------------> DEGRADED <---+    +--died, restart budget spent--> FAILED --ready--> READY
                                      (died)
    STOPPING from every state, and nothing after it.

Frames meanwhile: READY inspects; STARTING and DEGRADED let them wait up to their deadlines for a worker that may still
come; FAILED answers them NotDecidable at once, while a restart is still tried at the longest back-off.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class State(StrEnum):
    """See the drawing in the module docstring."""

    STARTING = "starting"
    """Loads for the first time."""
    READY = "ready"
    """Inspects."""
    DEGRADED = "degraded"
    """Worker: died or hung and starts again, within its budget. Station: some cameras are inspected, others not."""
    STOPPING = "stopping"
    """Asked to end."""
    FAILED = "failed"
    """Worker: restart budget spent. Station: so is every worker's. Left as soon as a worker is ready."""


def station_state(workers: Collection[State]) -> State:
    """Return the state of a station, not asked to end, whose workers (one or more) are in these states."""
    states = set(workers)
    if states == {State.READY}:
        return State.READY
    if states == {State.FAILED}:
        return State.FAILED
    if states & {State.DEGRADED, State.FAILED}:
        return State.DEGRADED
    return State.STARTING
