"""Commands about this machine: health and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.commands.options import STATION, Device, Json, Threads, plugins_of


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


def bench(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="host, detector, end-to-end, or a detector such as hetmm.")],
    *,
    station: Annotated[Path, typer.Option("--station", help="detector, end-to-end: station file.")] = STATION,
    frames: Annotated[int, typer.Option(min=10, help="host, detector, end-to-end: frames per case.")] = 300,
    batch: Annotated[int, typer.Option(min=1, help="detector: throughput with so many frames at once, too.")] = 1,
    device: Device = "cpu",
    threads: Threads = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A detector: tiny sizes that only show that it runs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables, for a report.")] = False,
    as_json: Json = False,
) -> None:
    """Measure this machine: what the host adds to a bare echo, or a detector's arithmetic beside plainer forms of it.

    `detector`: a station's engines, as `edgead build` made them, beside the eager reference. `end-to-end`: the first
    camera of a station, from a camera process to a subscriber, beside its bare detector. All sides take turns in one
    run, because machines are noisy: read the ratios.
    """
    from runtime.commands.figures import print_figures, print_markdown
    from runtime.errors import ConfigError
    from runtime.terminal import print_json, progress_bars

    with progress_bars() as progress:
        if what == "host":
            from runtime.bench import bench_host

            figures: dict[str, Any] | None = bench_host(frames, progress)
        elif what == "detector":
            from runtime.engines.bench import bench_detector
            from runtime.station.config import load_station

            builtins = context.find_root().obj
            figures = bench_detector(
                load_station(station), plugins_of(context), builtins, progress, rounds=frames, batch=batch
            )
        elif what == "end-to-end":
            from runtime.end_to_end import bench_end_to_end
            from runtime.station.config import load_station

            figures = bench_end_to_end(load_station(station), context.find_root().obj, frames, progress)
        else:
            figures = plugins_of(context).detector(what).bench(progress, device=device, threads=threads, quick=quick)
    if figures is None:
        raise ConfigError(
            f"detector {what!r} has nothing to bench: expected host, detector, end-to-end, or a detector that has, "
            "such as hetmm"
        )
    if as_json:
        print_json(figures)
    elif markdown:
        print_markdown(f"bench {what}", figures)
    else:
        print_figures(f"bench {what}", figures)
