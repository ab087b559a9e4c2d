"""Commands that learn and measure: the demo, calibrate, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    setting: Settings = None,
    false_reject: Annotated[float, typer.Option(help="Share of good parts that may be rejected, 0..1.")] = 0.01,
    held_out: Annotated[int, typer.Option(min=0, help="Most frames scored held-out for the thresholds.")] = 300,
    activate: Annotated[bool, typer.Option("--activate", help="Make it the template that runs.")] = False,
    report: Annotated[Path | None, typer.Option(help="HTML report; default STORE/reports/ID.html.")] = None,
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
    from runtime.terminal import progress_bars, say, show

    job = CalibrationJob(
        dataset=dataset, product=product, detector=detector, store=store, preset=preset, settings=setting or [],
        activate=activate, report=report, who=who or login(), why=why, options=CalibrationOptions(
            false_reject=false_reject, held_out=held_out, device=device, threads=threads, seed=seed
        ),
    )  # fmt: skip
    with progress_bars() as progress:
        summary = run_calibration(job, plugins_of(context), progress)
    for warning in summary["warnings"]:
        say(f"note: {warning}")
    show(summary, as_json, title="calibrated")


def evaluate(
    context: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="MVTec layout: train/good, test/*, ground_truth/*.")],
    *,
    detector: DetectorName = "hetmm",
    preset: Preset = None,
    setting: Settings = None,
    template: Annotated[
        str | None, typer.Option(help="Evaluate this template of the store instead of calibrating.")
    ] = None,
    store: StoreDir = STORE,
    scores: Annotated[Path | None, typer.Option(help="Write path, label, score of every test image as CSV.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Write every raw map as float32 .npy below this folder.")] = None,
    device: Device = "cpu",
    threads: Threads = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    as_json: Json = False,
) -> None:
    """Score a labelled test set: AUROC, AP and PRO, over all and per defect class."""
    from calibration.calibrate import CalibrationOptions
    from calibration.jobs import EvaluationJob, run_evaluation
    from runtime.terminal import print_json, print_record, print_table, progress_bars, say

    job = EvaluationJob(
        dataset=dataset, detector=detector, preset=preset, settings=setting or [], template=template, store=store,
        scores=scores, maps=maps, options=CalibrationOptions(device=device, threads=threads, seed=seed),
    )  # fmt: skip
    with progress_bars() as progress:
        figures = run_evaluation(job, plugins_of(context), progress)
    for warning in figures["warnings"]:
        say(f"note: {warning}")
    if as_json:
        print_json(figures)
        return
    measures = ("n", "image_auroc", "pixel_auroc", "pixel_ap", "pro")
    rows = [("all", figures["n_test"], *(figures[name] for name in measures[1:]))]
    rows += [(label, *(each[name] for name in measures)) for label, each in figures["per_class"].items()]
    print_table(f"{figures['detector']} on {dataset}", ("class", *measures), rows)
    rest = ("n_references", "calibrate_s", "latency_ms_p50", "latency_ms_p99", "peak_memory_mb", "template")
    print_record("", {name: figures[name] for name in rest})
