"""The demand for an inspection, raised by a PLC, a sensor or a person ahead of the frame."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.frame import Clock


@dataclass(frozen=True, slots=True)
class TriggerHeader:
    """A demand for one inspection that comes ahead of its frame.

    (``camera``, ``trigger_id``, ``part_id``, ``raised_ns``) names a trigger: sent again, it is the same one.
    ``raised_ns``: when its source raised it, on ``clock``; None if that cannot tell. ``recipe``: which of the camera's
    recipes to use, empty for the current one. ``deadline_ms``: a shorter deadline than the camera's.
    """

    camera: str
    trigger_id: int
    part_id: str = ""
    recipe: str = ""
    raised_ns: int | None = None
    clock: Clock = Clock.HOST
    deadline_ms: int | None = None
    simulated: bool = False
