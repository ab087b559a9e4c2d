"""Commands that learn: the demo, calibrate, extend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.commands.options import (
    STORE,
    DetectorName,
    Device,
    Json,
    Preset,
    Settings,
    StoreDir,
    Threads,
    Who,
    Why,
    login,
    plugins_of,
)

Templates = Annotated[
    str | None, typer.Option(help="all or pts: what the template keeps (a detector's setting `templates`).")
]
Sheets = Annotated[int | None, typer.Option(min=1, help="Sheets a pts template keeps (a detector's setting `sheets`).")]

Defects = Annotated[
    Path | None,
    typer.Option(help="Folder of a few real defects with masks/, for detectors that train (docs/cpr.md)."),
]
Textures = Annotated[
    Path | None, typer.Option(help="Folder of pictures of foreign material, for detectors that train.")
]


def with_templates(settings: list[str] | None, templates: str | None, sheets: int | None) -> list[str]:
    """Return the settings KEY=VALUE with the two that have options of their own."""
    own = {"templates": templates, "sheets": sheets}
    return [*(settings or []), *(f"{key}={value}" for key, value in own.items() if value is not None)]


def demo(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="Folder for parts, template, results and pictures; must not exist or be a former demo.")
    ] = Path("edgead-demo"),
    rate: Annotated[float, typer.Option(min=0, help="Frames a second; 0 = as fast as they are answered.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Which simulated product.")] = 0,
    as_json: Json = False,
) -> None:
    """Show everything on a simulated product: calibrate, inspect, print verdicts. Needs no GPU, camera or data.

    A host, a camera and a subscriber run as processes of their own, over ZeroMQ. Takes a minute or two on two cores;
    exit code 1 if a frame went unanswered or too few verdicts are right.
    """
    from calibration.demo import DemoOptions, run_demo
    from runtime.terminal import print_json, progress_bars

    with progress_bars() as progress:
        outcome = run_demo(plugins_of(context).detector("hetmm"), DemoOptions(out=out, rate=rate, seed=seed), progress)
    if as_json:
        print_json(outcome.as_json())
    raise typer.Exit(0 if outcome.passed else 1)


def calibrate(
    context: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="Folder of good images, or MVTec layout (train/good).")],
    *,
    product: Annotated[str, typer.Option(help="Product the template is for.")],
    detector: DetectorName = "hetmm",
    store: StoreDir = STORE,
    preset: Preset = None,
    templates: Templates = None,
    sheets: Sheets = None,
    setting: Settings = None,
    false_reject: Annotated[float, typer.Option(help="Share of good parts that may be rejected, 0..1.")] = 0.01,
    held_out: Annotated[int, typer.Option(min=0, help="Most frames scored held-out for the thresholds.")] = 300,
    activate: Annotated[bool, typer.Option("--activate", help="Make it the template that runs.")] = False,
    report: Annotated[Path | None, typer.Option(help="HTML report; default STORE/reports/ID.html.")] = None,
    defects: Defects = None,
    textures: Textures = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for unfinished training; the same command goes on from it.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Minutes training may take, at most; the result then depends on the machine.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Learn a template from good parts and set its thresholds from held-out good parts."""
    from calibration.calibrate import CalibrationOptions
    from calibration.jobs import CalibrationJob, run_calibration
    from calibration.materials import read_materials
    from runtime.terminal import progress_bars, say, show

    materials = read_materials(textures=textures, defects=defects, checkpoint=checkpoint, budget_min=budget)
    job = CalibrationJob(
        dataset=dataset, product=product, detector=detector, store=store, preset=preset,
        settings=with_templates(setting, templates, sheets), activate=activate, report=report, who=who or login(),
        why=why, options=CalibrationOptions(
            false_reject=false_reject, held_out=held_out, device=device, threads=threads, seed=seed,
            materials=materials,
        ),
    )  # fmt: skip
    with progress_bars() as progress:
        summary = run_calibration(job, plugins_of(context), progress)
    for warning in summary["warnings"]:
        say(f"note: {warning}")
    show(summary, as_json, title="calibrated")


def extend(
    context: typer.Context,
    frames: Annotated[Path, typer.Argument(help="Folder of new good images.")],
    *,
    product: Annotated[str, typer.Option(help="Product whose template learns them.")],
    detector: DetectorName = "hetmm",
    store: StoreDir = STORE,
    template: Annotated[str | None, typer.Option(help="Template to extend; default: the active one.")] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="Folder of the former references: set the thresholds anew instead of keeping them."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Insert frames too that look like what is known already.")
    ] = False,
    activate: Annotated[bool, typer.Option("--activate", help="Make it the template that runs.")] = False,
    held_out: Annotated[int, typer.Option(min=0, help="Most frames scored held-out, with --references.")] = 300,
    device: Device = "cpu",
    threads: Threads = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Teach a template new good variations, without calibrating again; makes a new template beside the old one.

    Each new frame is scored first: one that looks like most known good parts has nothing to teach and is skipped.
    Insert confirmed good parts only: a defect that is inserted is not found any more. A template that no longer finds
    damage planted into its golden frames is not activated, even with --activate.
    """
    from calibration.extension import ExtensionOptions
    from calibration.jobs.extension import ExtensionJob, run_extension
    from runtime.terminal import print_json, progress_bars, say

    job = ExtensionJob(
        frames=frames, product=product, store=store, detector=detector, template=template, references=references,
        activate=activate, who=who or login(), why=why, options=ExtensionOptions(
            everything=everything, held_out=held_out, device=device, threads=threads, seed=seed
        ),
    )  # fmt: skip
    with progress_bars() as progress:
        summary = run_extension(job, plugins_of(context), progress)
    if not as_json:
        _print_extension(summary)
    for warning in summary["warnings"]:  # below the tables, where the eye is when the command has ended
        say(f"note: {warning}")
    if as_json:
        print_json(summary)


def _print_extension(summary: dict[str, Any]) -> None:
    """Print each frame that was scored on a line, then the template; long lists as their counts, warnings not."""
    from runtime.terminal import print_record, print_table

    inserted = set(summary["inserted"])
    rows = [(each["frame"], each["before"], each["after"], each["frame"] in inserted) for each in summary["scores"]]
    if rows:
        print_table("new frames", ("frame", "before", "after", "inserted"), rows)
    thresholds = summary["thresholds"]
    shown = {key: value for key, value in summary.items() if key not in ("scores", "warnings")} | {
        "inserted": len(inserted),
        "skipped": [f"{len(names)} {reason}" for reason, names in summary["skipped"].items()],
        "thresholds": thresholds["rule"],
    }
    values = {"image_threshold": thresholds["image"], "pixel_threshold": thresholds["pixel"]}
    values["false_reject_bound"] = thresholds["bound"]
    print_record("extended" if inserted else "nothing inserted", shown | values)
