"""What a publisher asks of its station: signs of life, triggers, another recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from runtime.errors import StationError
from runtime.publisher import Pulse, TriggerAnswer
from runtime.publishing.pulse import HostPulse
from runtime.publishing.triggers import TriggerSender
from runtime.trigger import TriggerHeader

#: Longest wait for the station to answer a command.
ANSWER_S = 2.0


class StationLine:
    """The ``Line`` to one station. Use as a context manager."""

    def __init__(self, frames: str, status: str, memory: Path) -> None:
        """Know a station by the addresses of its sockets, as somebody connects to them.

        ``memory``: file of triggers that are not answered yet.
        """
        self._status = status
        self._pulse = HostPulse(status)
        self._triggers = TriggerSender(frames, memory)

    def __enter__(self) -> Self:
        self._pulse.__enter__()
        self._triggers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._triggers.__exit__()
        self._pulse.__exit__()

    def pulse(self) -> Pulse:
        """Return the host's latest sign of life."""
        return self._pulse.latest()

    def trigger(
        self, camera: str, trigger_id: int, part_id: str = "", recipe: str = "", raised_ns: int | None = None
    ) -> None:
        """Raise a trigger; see ``Line``."""
        self._triggers.take(TriggerHeader(camera, trigger_id, part_id, recipe, raised_ns))

    def answers(self) -> list[TriggerAnswer]:
        """Return what the station said to triggers since the last call; see ``Line``."""
        return self._triggers.answers()

    def select_recipe(self, camera: str, recipe: str) -> None:
        """Make ``recipe`` the camera's current one; see ``Line``."""
        from runtime.client.ask import ask

        answer = ask(self._status, {"op": "recipe", "camera": camera, "recipe": recipe}, ANSWER_S)
        if answer.get("ok") is not True:
            raise StationError(f"recipe {recipe!r} of camera {camera!r}: {answer.get('error', 'refused')}")
