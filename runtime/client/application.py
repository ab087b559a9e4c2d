"""Asks a running host to take over its station file, and follows what becomes of that. The host does the work.

Two things may end badly here and are told apart: the request is refused before anything is touched (an invalid file, a
key that needs a restart: ``ConfigError``), or the host tried and stayed with, or went back to, what ran before (an
``Outcome`` that is not ``ok``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.client.ask import ask
from runtime.client.subscriber import ask_status
from runtime.errors import ConfigError, EdgeadError, StationError

#: A host answers within one turn of its loop; a station that writes to a slow disk may take a while for one.
ANSWER_S = 10.0
#: A host that is asked for its plan first proves every byte of a new bank, on whatever disk it lies.
PLAN_S = 120.0
#: A host that says nothing for so long while it is followed has gone.
SILENCE_S = 30.0
_LOOK_S = 0.1
#: States of a swap, or of a request, that leave what ran before.
_FAILED = ("refused", "rolled_back")


@dataclass(frozen=True)
class Outcome:
    """What became of a request: ``state`` is applied, watched (a guard still looks), refused or rolled_back.

    ``why``: one sentence for each camera that was refused or taken back. ``swaps``: as the host's status has them.
    """

    state: str
    why: tuple[str, ...]
    swaps: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Whether the wanted station runs."""
        return self.state not in _FAILED


def plan(address: str, file: Path) -> dict[str, Any]:
    """Ask the host at ``address`` what it would change: a ``runtime.station.changes.Plan`` as JSON. Changes nothing.

    ``file``: the station file the user means. Raises ``ConfigError`` when the host runs another one, or refuses this
    one, also for keys that need a restart; ``StationError`` when no host answers.
    """
    ask_status(address)  # nobody there is found in a moment, not after PLAN_S
    request = {"op": "plan", "file": str(file.resolve())}
    made: dict[str, Any] = _answer(address, request, PLAN_S, ConfigError)["plan"]
    if made["restart"]:
        raise ConfigError(
            f"{file}: {', '.join(made['restart'])}: a running host cannot change this; nothing was changed. "
            "Restart the host to bring it, or put it back and apply the rest"
        )
    return made


def begin(address: str, file: Path, *, who: str, why: str) -> str:
    """Have the host take over its station file; return the id to ``follow``. ``EdgeadError`` if it refuses at once."""
    request = {"op": "apply", "file": str(file.resolve()), "who": who, "why": why}
    return str(_answer(address, request, ANSWER_S, EdgeadError)["id"])


def follow(address: str, request: str, tell: Callable[[str], None], *, guarded: bool = False) -> Outcome:
    """Wait until the request is done and return its outcome; ``tell`` hears every step as a sentence.

    ``guarded``: wait for the guard's word too, which takes as many parts as the station file says.
    Raises ``StationError`` when the host goes away, or another one comes, meanwhile.
    """
    told: dict[str, str] = {}
    waits_for = {"checking", "preparing", "guarded"} if guarded else {"checking", "preparing"}
    status = _status(address)
    run_id = status["run_id"]
    while True:
        fate = next((each for each in status["applies"] if each["id"] == request), None)
        if status["run_id"] != run_id or fate is None:
            raise StationError(f"the host was restarted, or forgot {request}, while it was followed: `edgead status`")
        swaps = [each for each in status["swaps"] if each["id"] in fate["swaps"]]
        for swap in swaps:
            if told.get(swap["id"]) != swap["state"]:
                told[swap["id"]] = swap["state"]
                tell(swap_sentence(swap))
        if not waits_for & {fate["state"], *(swap["state"] for swap in swaps)}:
            if fate["state"] == "refused":
                tell(fate["why"])
            return _outcome(fate, swaps)
        time.sleep(_LOOK_S)
        status = _status(address)


def swap_sentence(swap: dict[str, Any]) -> str:
    """Return one swap of a host's status as a line for people."""
    recipe = f" recipe {swap['recipe']}" if swap["recipe"] else ""
    old, new = _short(swap["from"]), _short(swap["to"])
    stays = "" if swap["from"] == swap["to"] else f", {old} stays"  # a camera or recipe that is new has nothing to stay
    words = {
        "preparing": f"preparing {new}; {old} inspects until it is ready",
        "guarded": f"{new} inspects; the guard watches its first parts",
        "active": f"{new} inspects",
        "kept": f"{new} stays: the guard found nothing",
        "refused": f"{new} refused{stays}: {swap['why']}",
        "rolled_back": f"{new} taken back, {old} inspects again: {swap['why']}",
    }
    return f"camera {swap['camera']}{recipe}: {words.get(swap['state'], swap['state'])}"


def _outcome(fate: dict[str, Any], swaps: list[dict[str, Any]]) -> Outcome:
    bad = [swap for swap in swaps if swap["state"] in _FAILED]
    why = [swap_sentence(swap) for swap in bad]
    if fate["state"] in _FAILED and not bad:
        why = [fate["why"]]
    if why:
        state = next((swap["state"] for swap in bad), fate["state"])
    else:
        state = "watched" if any(swap["state"] == "guarded" for swap in swaps) else "applied"
    return Outcome(state, tuple(why), tuple(swaps))


def _answer(address: str, request: dict[str, Any], timeout_s: float, refusal: type[EdgeadError]) -> dict[str, Any]:
    answer: dict[str, Any] = ask(address, request, timeout_s)
    if not answer.get("ok"):
        raise refusal(str(answer.get("error", f"the host refuses {request['op']} without a reason")))
    return answer


def _status(address: str) -> dict[str, Any]:
    """Return the host's status; a host that is busy for a moment is asked again."""
    give_up = time.monotonic() + SILENCE_S
    while True:
        try:
            status = ask_status(address)
        except StationError as error:
            if time.monotonic() > give_up:
                raise StationError(f"the host went away while it was followed: {error}") from error
        else:
            return {"run_id": None, "applies": [], "swaps": []} | status


def _short(described: dict[str, Any]) -> str:
    return f"{described['detector']} {described['detector_version']} with template {described['template'][:12]}"
