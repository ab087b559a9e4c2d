"""Commands about this machine: plugins, health, backbone weight files, benchmarks."""

from __future__ import annotations

from typing import Annotated

import typer

from runtime.commands.options import Json, plugins_of

bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine.")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(_edgead())  # noqa: T201 - it is what was asked for
        raise typer.Exit


def _edgead() -> str:
    from importlib.metadata import version

    return f"edgead {version('edgead')}"


def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options of edgead itself."""
    del version


def plugins(context: typer.Context, as_json: Json = False) -> None:
    """List detectors with the package each came from, and plugins that could not be loaded."""
    from runtime.terminal import print_json, show

    registry = plugins_of(context)
    detectors = [registry.describe(name) for name in sorted(registry.detectors)]
    broken = [{"plugin": b.plugin, "distribution": b.distribution, "error": b.error} for b in registry.broken]
    if as_json:
        print_json({"detectors": detectors, "broken": broken})
        return
    show(detectors, False, ("name", "version", "distribution", "plugin"), "detectors")
    broken += [each | {"plugin": each["name"]} for each in detectors if "error" in each]
    if broken:
        show(broken, False, ("plugin", "distribution", "error"), "broken")


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Look at this machine: versions, devices, weights, memory, disk; exit code 1 if something is in the way."""
    from runtime.doctor import examine
    from runtime.terminal import show

    findings = examine(plugins_of(context))
    show(
        [finding.as_json() for finding in findings],
        as_json,
        ("check", "status", "detail"),
        _edgead(),
    )
    raise typer.Exit(1 if any(finding.status == "fail" for finding in findings) else 0)


@bench_app.command("host")
def bench_host(
    frames: Annotated[int, typer.Option(min=10, help="Frames per case.")] = 300,
    as_json: Json = False,
) -> None:
    """Measure what the host adds: a do-nothing detector beside a bare ZeroMQ echo of the same bytes, in turns."""
    from runtime.bench import bench_host as measure
    from runtime.terminal import print_json, print_record, print_table, progress_bars

    with progress_bars() as progress:
        figures = measure(frames, progress)
    if as_json:
        print_json(figures)
        return
    cases = figures["cases"]
    rows = [[key, *(case[key] for case in cases)] for key in cases[0] if key != "case"]
    print_table("host beside a bare echo, same bytes, same run", ("", *(case["case"] for case in cases)), rows)
    print_record("machine", figures["machine"])
