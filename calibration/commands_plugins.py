"""The command group ``edgead plugins``: the list, which is the runtime's, and the check, which calibrates."""

from __future__ import annotations

from typing import Annotated

import typer

from runtime.commands.options import Json, Preset, Settings
from runtime.commands.plugins import plugins

app = typer.Typer()
app.callback(invoke_without_command=True)(plugins)


@app.command("check")
def check(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="Detector of `edgead plugins`, or a wheel (.whl) that brings some.")],
    *,
    preset: Preset = None,
    setting: Settings = None,
    limit: Annotated[float, typer.Option(min=1, help="Seconds one promise may take before it is ended.")] = 120.0,
    frames: Annotated[int, typer.Option(min=60, help="Frames inspected to see whether memory grows.")] = 240,
    as_json: Json = False,
) -> None:
    """Check a detector against everything the host relies on; exit code 1 if a promise is not kept.

    Runs in a process of its own, on generated pictures of 128 x 160 pixels; settings that learn quickly are enough. A
    wheel is put into a throw-away folder, never into this environment; what it depends on must be installed here.
    """
    from calibration.conformance import Check, kept
    from calibration.conformance import check as run_check
    from runtime.terminal import print_json, print_table, progress_bars, say

    settings, presets = {"": setting or []}, {"": preset} if preset else {}
    request = Check(what=[what], settings=settings, presets=presets, limit_s=limit, frames=frames)
    with progress_bars() as progress:
        outcomes = run_check(request, context.find_root().obj, progress)
    names = [*dict.fromkeys(each.detector for each in outcomes)]
    if as_json:
        print_json({"passed": kept(outcomes), "promises": [each.as_json() for each in outcomes]})
    for name in names:
        own = [each for each in outcomes if each.detector == name]
        if not as_json:
            print_table(name, ("promise", "result", "found"), [(o.promise, o.state, o.sentence) for o in own])
        broken, skipped = (sum(each.state == state for each in own) for state in ("fail", "skip"))
        verdict = f"{broken} of {len(own)} promises not kept, {skipped} not judged"
        verdict = verdict if broken or skipped else f"all {len(own)} promises kept"
        say(f"{name}: {verdict}")
    raise typer.Exit(0 if kept(outcomes) else 1)
