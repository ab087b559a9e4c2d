"""The command ``edgead evaluate``: one detector, all of them side by side, or a paper's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calibration.commands import Sheets, Templates, with_templates
from runtime.commands.options import STORE, DetectorName, Device, Json, Settings, StoreDir, Threads, plugins_of

if TYPE_CHECKING:
    from calibration.comparison import ComparisonJob
    from calibration.protocol import ProtocolJob

Presets = Annotated[
    list[str] | None,
    typer.Option("--preset", help="Detector preset: a YAML file, or a ready-made name; several for all detectors."),
]


#: Figures of a comparison that fit a terminal of 80 columns, with their headings; the page has the rest.
_SHOWN = {
    "image_auroc": "image", "pixel_auroc": "pixel", "pro": "PRO", "pixel_ap": "AP", "latency_ms_p50": "ms",
    "peak_memory_mb": "MB", "calibrate_s": "cal. s",
}  # fmt: skip


def evaluate(
    context: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="MVTec layout: train/good, test/*, ground_truth/*.")],
    *,
    detector: DetectorName = "hetmm",
    protocol: Annotated[
        str | None,
        typer.Option(help="Follow a paper's protocol, such as hetmm-paper, and show its figures beside ours."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every detector, side by side; needs a report folder.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder for the page of all detectors (comparison.html, .md, .json); rows in it are kept."),
    ] = None,
    detectors: Annotated[str, typer.Option(help="Of all detectors only these, separated by commas.")] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Of all detectors compute also the rows that are there already.")
    ] = False,
    preset: Presets = None,
    templates: Templates = None,
    sheets: Sheets = None,
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
    """Score a labelled test set: AUROC, AP and PRO, over all and per defect class.

    With --protocol DATASET is a whole benchmark as its authors hand it out, such as MVTec AD, and each category is
    learnt and scored with the settings of the paper; --set goes over them.

    With --all each detector is evaluated in a process of its own, with its defaults or the presets given for it; one
    that fails is a row with its reason, and exit code 1.
    """
    from calibration.calibrate import CalibrationOptions
    from calibration.comparison import ComparisonJob
    from calibration.jobs import EvaluationJob, run_evaluation
    from calibration.protocol import ProtocolJob
    from runtime.terminal import print_json, print_record, print_table, progress_bars, say

    settings = with_templates(setting, templates, sheets)
    if everything:
        if report is None or protocol or template or scores or maps or settings:
            raise typer.BadParameter(
                "--all needs --report; settings come from presets: no --protocol, --template, --scores, --maps, --set"
            )
        _evaluate_all(context, ComparisonJob(
            dataset=dataset, report=report, detectors=[name.strip() for name in detectors.split(",") if name.strip()],
            presets=preset or [], again=again, device=device, threads=threads, seed=seed,
        ), as_json)  # fmt: skip
        return
    if report or detectors or again or len(preset or []) > 1:
        raise typer.BadParameter("--report, --detectors, --again and more than one --preset belong to --all")
    options = CalibrationOptions(device=device, threads=threads, seed=seed)
    if protocol:
        if preset or template or scores or maps:
            raise typer.BadParameter(
                "--protocol brings its own settings: expected no --preset, --template, --scores, --maps"
            )
        job = ProtocolJob(protocol=protocol, dataset=dataset, settings=settings, options=options)
        _evaluate_protocol(context, job, as_json)
        return
    evaluation = EvaluationJob(
        dataset=dataset, detector=detector, preset=preset[0] if preset else None, settings=settings,
        template=template, store=store, scores=scores, maps=maps, options=options,
    )  # fmt: skip
    with progress_bars() as progress:
        figures = run_evaluation(evaluation, plugins_of(context), progress)
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


def _evaluate_protocol(context: typer.Context, job: ProtocolJob, as_json: bool) -> None:
    from calibration.protocol import COLUMNS, run_protocol, table_rows
    from runtime.terminal import print_json, print_table, progress_bars, say

    with progress_bars() as progress:
        figures = run_protocol(job, plugins_of(context), progress)
    for warning in figures["warnings"]:
        say(f"note: {warning}")
    if as_json:
        print_json(figures)
    else:
        print_table(f"{figures['protocol']} on {figures['title']}", COLUMNS, table_rows(figures))


def _evaluate_all(context: typer.Context, job: ComparisonJob, as_json: bool) -> None:
    from calibration.comparison import run_comparison
    from runtime.terminal import print_json, print_table, progress_bars, say

    with progress_bars() as progress:
        record = run_comparison(job, plugins_of(context), context.find_root().obj, progress)
    if as_json:
        print_json(record)
    else:
        rows = [(each["label"], *(each["figures"].get(key) for key in _SHOWN)) for each in record["rows"]]
        print_table(f"detectors on {job.dataset}", ("detector", *_SHOWN.values()), rows)
    failed = [each for each in record["rows"] if each["error"]]
    for each in failed:
        say(f"{each['label']} failed: {each['error']}")
    say(f"{job.report / 'comparison.html'}")
    raise typer.Exit(1 if failed else 0)
