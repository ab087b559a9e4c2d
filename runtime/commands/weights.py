"""``edgead weights``: backbone weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.options import Json, plugins_of

app = typer.Typer(no_args_is_help=True, help="Backbone weight files: list, add, fetch.")


@app.command("list")
def weights_list(context: typer.Context, as_json: Json = False) -> None:
    """List the weight files detectors may ask for, and whether this machine has them."""
    from runtime.terminal import print_json, print_record, print_table
    from runtime.weights import state

    records = [
        {"name": w.name, "state": state(w), "file": w.filename, "sha256": w.sha256, "url": w.url, "licence": w.licence}
        for w in plugins_of(context).weights.values()
    ]
    if as_json:
        print_json(records)
        return
    print_table("weights", ("name", "state", "file"), [(each["name"], each["state"], each["file"]) for each in records])
    print_record("licences", {each["name"]: each["licence"] for each in records})


@app.command("add")
def weights_add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Weight file you have; recognised by its digest.")],
) -> None:
    """Take a weight file into edgead's folder after checking its digest."""
    from runtime.terminal import say
    from runtime.weights import add, match

    weight = match(plugins_of(context).weights.values(), file)
    say(f"{weight.name}: {add(weight, file)}")


@app.command("fetch")
def weights_fetch(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Name from `edgead weights list`.")]
) -> None:
    """Download a weight file and check its digest; a cut download resumes when run again."""
    from runtime.errors import ConfigError
    from runtime.terminal import progress_bars, say
    from runtime.weights import fetch

    known = plugins_of(context).weights
    if name not in known:
        raise ConfigError(f"expected weights of {', '.join(known)}, found {name!r}")
    with progress_bars() as progress:
        path = fetch(known[name], lambda done, total: progress(done, total or 0, f"fetching {name}"))
    say(f"{name}: {path}\nlicence: {known[name].licence}")
