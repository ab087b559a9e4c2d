"""Picking the recipe of frames that name none, at a running host."""

from __future__ import annotations

from typing import Any

from runtime.client.ask import ask
from runtime.errors import ConfigError

#: What `edgead recipe` and `edgead status` show of every recipe; "" is the product that the camera itself names.
HEADINGS = {
    "camera": "camera",
    "recipe": "recipe",
    "current": "current",
    "product": "product",
    "detector": "detector",
    "template": "template",
    "worker": "worker",
}
ANSWER_S = 10.0


def recipes_of(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a record for every recipe of every camera in a host's status, the camera's own ("-") first."""
    return [
        {
            "camera": camera,
            "recipe": recipe or "-",
            "current": recipe == lane.get("recipe"),
            "product": each["product"],
            "detector": each["detector"],
            "template": each["template"][:12],
            "worker": each["worker"],
        }
        for camera, lane in status["cameras"].items()
        for recipe, each in lane.get("recipes", {}).items()
    ]


def pick_recipe(address: str, recipe: str, camera: str | None) -> list[str]:
    """Make ``recipe`` ("": the camera's own product) the current one of ``camera``, or of every camera that has it.

    Returns the cameras. Raises ``ConfigError`` if the host refuses it, ``StationError`` if no host answers.
    """
    answer = ask(address, {"op": "recipe", "camera": camera, "recipe": recipe}, ANSWER_S)
    if not answer.get("ok"):
        raise ConfigError(str(answer.get("error", "the host refuses the recipe without a reason")))
    return list(answer["cameras"])
