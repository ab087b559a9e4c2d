"""``edgead apply``, ``use`` and ``recipe``: change what a running station inspects with, without losing a part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.commands.options import STATION, Json, StationFile, Who, Why, login, plugins_of

if TYPE_CHECKING:
    from runtime.registry import Registry
    from runtime.station.config import Station

#: States of the record in which what ran before runs.
_FAILED = ("refused", "rolled_back")
Connect = Annotated[
    str, typer.Option(help="Status address of the host; default: the station file's. For a file that changes it.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it until the new worker inspects, or is refused.")]
Guarded = Annotated[bool, typer.Option("--guard", help="Follow it until the guard has seen its parts, too.")]
UseStation = Annotated[Path, typer.Option("--station", help="Station file (YAML).")]
OneCamera = Annotated[str | None, typer.Option("--camera", help="The camera meant; not needed where there is one.")]


def apply(
    context: typer.Context,
    station: StationFile = STATION,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    wait: Wait = True,
    guard: Guarded = False,
    connect: Connect = "",
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Bring an edited station file, and newly activated templates, into the running host without losing a part.

    Engines the file asks for and lacks are built first, while the station inspects. Exit code 0: applied, or nothing to
    change. 1: refused by the new worker's self-test, or taken back: what ran before runs. 2: an invalid file, or a key
    that needs a restart: nothing was touched. 7: no host answers. 9: an engine cannot be built: nothing was touched.
    """
    from runtime.station.config import load_station
    from runtime.terminal import print_json

    address = _address(load_station(station), connect)
    errand = _Errand(
        station, address, plugins_of(context), who or login(), why, as_json=as_json, builtins=context.find_root().obj
    )
    record = errand.bring(dry_run=dry_run, wait=wait, guard=guard)
    if as_json:
        print_json(record)
    raise typer.Exit(1 if record["state"] in _FAILED else 0)


def use(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Detector, or a template by its id or first digits.")],
    *,
    camera: OneCamera = None,
    station: UseStation = STATION,
    wait: Wait = True,
    guard: Guarded = False,
    connect: Connect = "",
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Give a camera another detector, or activate a template, and apply that; what the host refuses is taken back.

    A detector is written into the station file (comments stay); a template is activated in the store. Exit codes as
    of `apply`. Without a running host the change is made and takes effect at the next start: exit code 0.
    """
    from runtime.errors import EdgeadError, StationError
    from runtime.selection import choose, taken_back
    from runtime.station.config import load_station
    from runtime.terminal import print_json, say

    wanted, registry, who = load_station(station), plugins_of(context), who or login()
    selection = choose(name, wanted, station, registry, camera=camera, who=who, why=why)
    record: dict[str, Any] = {"selected": selection.sentence, "changed": selection.select()}
    say(selection.sentence if record["changed"] else f"{selection.sentence}: it is so already")
    address = _address(wanted, connect)
    if (silence := _silence(address)) is not None:
        say(f"takes effect when the station starts ({silence})")
        record |= {"state": "next_start"}
    else:
        try:
            errand = _Errand(station, address, registry, who, why, as_json=as_json, builtins=context.find_root().obj)
            record |= errand.bring(wait=wait, guard=guard)
        except StationError:
            raise  # the host has gone: what becomes of the change is decided by file and store at its next start
        except EdgeadError as error:
            raise type(error)(f"{error}; {taken_back(selection)}") from error
        if record["state"] in _FAILED:
            say(taken_back(selection))
    if as_json:
        print_json(record)
    raise typer.Exit(1 if record["state"] in _FAILED else 0)


def recipe(
    name: Annotated[str | None, typer.Argument(help="Recipe id; without it, the recipes are listed.")] = None,
    *,
    camera: Annotated[str | None, typer.Option("--camera", help="Only this camera; else all that know it.")] = None,
    own: Annotated[bool, typer.Option("--own", help="Back to the product the camera itself names.")] = False,
    station: UseStation = STATION,
    connect: Connect = "",
    as_json: Json = False,
) -> None:
    """Pick the recipe of frames that name none: another preloaded product, from the next frame on, none lost.

    It survives a restart of the host. Exit code 2: no camera knows it; 7: no host answers.
    """
    from runtime.client.recipes import HEADINGS, pick_recipe, recipes_of
    from runtime.client.subscriber import ask_status
    from runtime.station.config import load_station
    from runtime.terminal import say, show

    address = _address(load_station(station), connect)
    if name is not None or own:
        cameras = ", ".join(pick_recipe(address, name or "", camera))
        say(f"{cameras}: frames that name no recipe are {name or 'of the product of the camera itself'} from now on")
    show(recipes_of(ask_status(address)), as_json, HEADINGS, "recipes")


def _address(wanted: Station, connect: str) -> str:
    from runtime.station.address import reachable

    return reachable(connect or wanted.status)


@dataclass(frozen=True)
class _Errand:
    """To bring what changed into the host at ``address``."""

    file: Path
    address: str
    registry: Registry
    who: str
    why: str
    as_json: bool
    builtins: tuple[str, ...]

    def bring(self, *, wait: bool, guard: bool, dry_run: bool = False) -> dict[str, Any]:
        """Check, show, build what engines are missing, and apply; return the record that --json prints.

        Its ``state``: unchanged, planned, accepted (nobody waited), applied, watched, refused or rolled_back.
        """
        from runtime.client.application import begin, follow
        from runtime.engines.ahead import prepare
        from runtime.terminal import say

        record = self._checked_plan()
        _show_plan(record, self.as_json)
        if not record["changes"] or dry_run:
            return record
        if built := prepare(self.file, self.builtins, beside_host=True):
            say(built)
        request = begin(self.address, self.file, who=self.who, why=self.why)
        if not wait:
            say(f"{request} accepted: `edgead status` shows what becomes of it")
            return record | {"state": "accepted"}
        done = follow(self.address, request, say, guarded=guard)
        said = {"applied": "applied", "watched": "applied; the guard watches"}
        say(said.get(done.state, "not applied: what ran before inspects"))
        return record | {"state": done.state, "why": list(done.why), "swaps": list(done.swaps)}

    def _checked_plan(self) -> dict[str, Any]:
        """Check the file beside its host; return the host's plan. ``ConfigError`` names every fault, one a line."""
        from runtime.client.application import plan
        from runtime.errors import ConfigError
        from runtime.preflight import check_station

        made = plan(self.address, self.file)
        report = check_station(self.file, self.registry, beside_host=True)
        if not report.ok:
            faults = [f"{each['check']}: {each['detail']}" for each in report.checks if not each["ok"]]
            raise ConfigError("\n".join([f"{self.file}: nothing was changed", *faults]))
        return {"station": str(self.file), "state": "planned" if made["changes"] else "unchanged", **made}


def _show_plan(record: dict[str, Any], as_json: bool) -> None:
    from runtime.commands.swap_tables import print_plan
    from runtime.terminal import say

    if not record["changes"]:
        say("nothing to change: the station runs what its file and store say")
    elif as_json:
        for change in record["changes"]:
            say(change["sentence"])
    else:
        print_plan(record["changes"])


def _silence(address: str) -> str | None:
    """Return why no host answers, None if one does."""
    from runtime.client.subscriber import ask_status
    from runtime.errors import StationError

    try:
        ask_status(address)
    except StationError as error:
        return str(error)
    return None
