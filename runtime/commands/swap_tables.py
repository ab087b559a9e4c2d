"""Changes, recipes and swaps as tables that fit 80 columns; --json has them whole."""

from __future__ import annotations

from typing import Any

from runtime.client.recipes import HEADINGS, recipes_of
from runtime.terminal import print_table, say, show

#: Swaps `edgead status` shows, the newest; --json has all that the host remembers.
MOST_SHOWN = 8
_SHORT = 12


def print_plan(changes: list[dict[str, Any]]) -> None:
    """Print what would change: key, from, to, and what it does."""
    rows = [(each["key"], _brief(each["from"]), _brief(each["to"]), each["effect"]) for each in changes]
    print_table("what changes", ("key", "from", "to", "effect"), rows)


def print_swaps(status: dict[str, Any]) -> None:
    """Print recipes and the newest swaps of a host's status, where there are any, and why the last request failed."""
    recipes = recipes_of(status)
    if recipes:
        show(recipes, False, HEADINGS, "recipes")
    swaps = status.get("swaps", [])[-MOST_SHOWN:]
    if swaps:
        rows = [(each["id"], _lane(each), each["state"], *map(_work, (each["from"], each["to"]))) for each in swaps]
        print_table("swaps", ("swap", "camera", "state", "from", "to"), rows)
        for each in swaps:
            if each["why"]:
                say(f"{each['id']} {each['state']}: {each['why']}")
    applies = status.get("applies", [])
    if applies and applies[-1]["state"] == "refused":
        say(f"the last change of the station file ({applies[-1]['id']}) was refused: {applies[-1]['why']}")


def _lane(swap: dict[str, Any]) -> str:
    return f"{swap['camera']} {swap['recipe']}".strip()


def _work(described: dict[str, Any]) -> str:
    return f"{described['detector']} {described['template'][:_SHORT]}"


def _brief(value: Any) -> Any:
    """Return a value for a narrow table: a digest by its first digits."""
    return value[:_SHORT] if isinstance(value, str) and len(value) == 64 else value  # noqa: PLR2004 - sha256 in hex
