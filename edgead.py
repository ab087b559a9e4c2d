"""The front door: the public names for plugin authors, and the ``edgead`` command that wires the rooms."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from runtime.detector import Detector as Detector
    from runtime.detector import DetectorContext as DetectorContext
    from runtime.detector import DetectorResult as DetectorResult
    from runtime.detector import TemplateContent as TemplateContent
    from runtime.errors import ConfigError as ConfigError
    from runtime.errors import EdgeadError as EdgeadError
    from runtime.errors import PluginError as PluginError
    from runtime.errors import TemplateError as TemplateError
    from runtime.errors import WeightsError as WeightsError
    from runtime.errors import WireError as WireError
    from runtime.frame import Frame as Frame
    from runtime.hookspecs import hookimpl as hookimpl
    from runtime.inspection import ErrorWord as ErrorWord
    from runtime.inspection import Inspection as Inspection
    from runtime.inspection import Verdict as Verdict
    from runtime.registry import Registry
    from runtime.store import Store
    from runtime.template import Template as Template
    from runtime.weights import WeightFile as WeightFile
    from runtime.weights import digest_of, locate

    digest_of_weights = digest_of
    locate_weights = locate

__version__ = "0.1.0"

#: Public name -> "module:attribute". Resolved on first use (PEP 562): ``import edgead`` costs milliseconds, and
#: the host and the command line never pay for numpy, pydantic or torch they do not use.
_PUBLIC = {
    "ConfigError": "runtime.errors:ConfigError",
    "Detector": "runtime.detector:Detector",
    "DetectorContext": "runtime.detector:DetectorContext",
    "DetectorResult": "runtime.detector:DetectorResult",
    "EdgeadError": "runtime.errors:EdgeadError",
    "ErrorWord": "runtime.inspection:ErrorWord",
    "Frame": "runtime.frame:Frame",
    "Inspection": "runtime.inspection:Inspection",
    "PluginError": "runtime.errors:PluginError",
    "Template": "runtime.template:Template",
    "TemplateContent": "runtime.detector:TemplateContent",
    "TemplateError": "runtime.errors:TemplateError",
    "Verdict": "runtime.inspection:Verdict",
    "WeightFile": "runtime.weights:WeightFile",
    "WeightsError": "runtime.errors:WeightsError",
    "WireError": "runtime.errors:WireError",
    "digest_of_weights": "runtime.weights:digest_of",
    "hookimpl": "runtime.hookspecs:hookimpl",
    "locate_weights": "runtime.weights:locate",
}

__all__ = ["BUILTIN_PLUGINS", "__version__", *sorted(_PUBLIC)]  # noqa: PLE0604 - strings, built from the table

#: The plugins edgead ships, by module. The runtime learns them from here and knows none by name.
BUILTIN_PLUGINS = ("plugins.hetmm",)


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _PUBLIC[name].split(":")
    except KeyError:
        raise AttributeError(f"module 'edgead' has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), attribute)


# --- the command line ---------------------------------------------------------------------------------------------

app = typer.Typer(
    name="edgead",
    help="Visual anomaly detection beside the line: calibrate on good parts, run a station, watch its verdicts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
templates_app = typer.Typer(
    no_args_is_help=True, help="The template store: list, show, activate, rollback, verify, export, import."
)
weights_app = typer.Typer(no_args_is_help=True, help="Backbone weight files: list, add, fetch.")
bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine.")
app.add_typer(templates_app, name="templates")
app.add_typer(weights_app, name="weights")
app.add_typer(bench_app, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print JSON; the last line of stdout is one object or list.")]
StationFile = Annotated[Path, typer.Argument(help="Station file (YAML).", show_default=True)]
StoreDir = Annotated[Path, typer.Option("--store", help="Template store folder.", envvar="EDGEAD_STORE")]
DetectorName = Annotated[str, typer.Option("--detector", "-d", help="Detector; see `edgead plugins`.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Detector setting KEY=VALUE (YAML value); repeatable.")
]
Preset = Annotated[
    str | None, typer.Option("--preset", help="Detector preset: a YAML file, or a ready-made name such as hetmm-d0.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 = one per core.")]
Who = Annotated[str, typer.Option(help="Who did it, for the ref log; default: your login.", envvar="EDGEAD_WHO")]
Why = Annotated[str, typer.Option(help="Why, for the ref log.")]
TemplateId = Annotated[str, typer.Argument(help="Template id, or its first digits.")]

StationOption = Annotated[Path | None, typer.Option("--station", help="Station file to take the address from.")]

_STATION = Path("station.yaml")
_STORE = Path("store")


def _who() -> str:
    """Return the user the ref log names when nobody says otherwise."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name: KeyError until Python 3.12, OSError since
        return f"uid {os.getuid()}"


def _address(station: Path | None, connect: str, key: str) -> str:
    """Return the address to connect to: ``key`` of the station file where one is given, else ``connect``."""
    from runtime.address import reachable
    from runtime.config import load_station

    return reachable(getattr(load_station(station), key) if station else connect)


def _plugins() -> Registry:
    from runtime.registry import load_plugins

    return load_plugins(BUILTIN_PLUGINS)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"edgead {__version__}")  # noqa: T201 - it is what was asked for
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options of edgead itself."""
    del version


@app.command()
def demo(
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
        outcome = run_demo(_plugins().detector("hetmm"), DemoOptions(out=out, rate=rate, seed=seed), progress)
    if as_json:
        print_json(outcome.as_json())
    raise typer.Exit(0 if outcome.passed else 1)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="New folder for the station.")]) -> None:
    """Make a folder with a commented station file, an empty template store and a place for good pictures."""
    from runtime.scaffold import make_station
    from runtime.terminal import say

    say(make_station(folder))


@app.command()
def validate(
    station: StationFile = _STATION,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of station files instead.")] = False,
    as_json: Json = False,
) -> None:
    """Check a station file, its addresses, store and templates; exit code 2 and every fault, with its line."""
    from runtime.config import station_schema
    from runtime.preflight import check_station
    from runtime.terminal import print_json, show

    if schema:
        print_json(station_schema())
        return
    report = check_station(station, _plugins())
    show(report.as_json() if as_json else report.checks, as_json, ("check", "ok", "detail"), str(station))
    raise typer.Exit(0 if report.ok else 2)


@app.command()
def calibrate(
    dataset: Annotated[Path, typer.Argument(help="Folder of good images, or MVTec layout (train/good).")],
    *,
    product: Annotated[str, typer.Option(help="Product the template is for.")],
    detector: DetectorName = "hetmm",
    store: StoreDir = _STORE,
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
        activate=activate, report=report, who=who or _who(), why=why, options=CalibrationOptions(
            false_reject=false_reject, held_out=held_out, device=device, threads=threads, seed=seed
        ),
    )  # fmt: skip
    with progress_bars() as progress:
        summary = run_calibration(job, _plugins(), progress)
    for warning in summary["warnings"]:
        say(f"note: {warning}")
    show(summary, as_json, title="calibrated")


@app.command()
def evaluate(
    dataset: Annotated[Path, typer.Argument(help="MVTec layout: train/good, test/*, ground_truth/*.")],
    *,
    detector: DetectorName = "hetmm",
    preset: Preset = None,
    setting: Settings = None,
    template: Annotated[
        str | None, typer.Option(help="Evaluate this template of the store instead of calibrating.")
    ] = None,
    store: StoreDir = _STORE,
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
        figures = run_evaluation(job, _plugins(), progress)
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


@app.command()
def run(
    station: StationFile = _STATION,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log refused messages too.")] = False,
) -> None:
    """Run a station until Ctrl-C or SIGTERM; then answer what is in hand and end."""
    import logging

    from runtime.config import load_station
    from runtime.host import Host
    from runtime.terminal import say

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    host = Host(load_station(station), BUILTIN_PLUGINS)
    host.run()
    status = host.status()
    refused = sum(status["refused"].values())
    say(f"{status['frames']} frames, {status['inspections']} inspections, {refused} refused messages")


@app.command()
def camera(
    source: Annotated[str, typer.Argument(help="Folder to replay, video file, device number or stream URL.")],
    *,
    station: StationOption = None,
    connect: Annotated[str, typer.Option(help="Address of the station's frame socket.")] = "tcp://127.0.0.1:5601",
    name: Annotated[str, typer.Option(help="Camera name, as in the station file.")] = "top",
    rate: Annotated[float, typer.Option(min=0, help="Frames a second; 0 = as fast as --window allows.")] = 0.0,
    window: Annotated[int, typer.Option(min=0, help="Most frames on their way; 0 = do not wait (a live camera).")] = 4,
    loop: Annotated[bool, typer.Option("--loop", help="Replay the folder or video for ever.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    checksum: Annotated[bool, typer.Option("--checksum", help="Send a CRC-32 of the pixels.")] = False,
    simulated: Annotated[bool, typer.Option("--simulated", help="Mark every frame as simulated.")] = False,
    part_prefix: Annotated[str, typer.Option(help="Number the parts: PREFIX000000, ...")] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the station.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Send images: a folder replayed, or what OpenCV opens. Exit code 1 if a frame is refused, 7 if a camera fails."""
    from runtime.camera import CameraOptions, send_source
    from runtime.terminal import print_json, say

    options = CameraOptions(
        name=name, address=_address(station, connect, "frames"), rate=rate, window=window, timeout_s=timeout,
        checksum=checksum, simulated=simulated, part_prefix=part_prefix,
    )  # fmt: skip
    count = send_source(source, options, loop=loop, limit=limit)
    words = [f"{number} {word}" for word, number in sorted(count.verdicts.items())]
    words += [f"{number} refused ({word})" for word, number in sorted(count.refused.items())]
    say(f"{count.sent} frames sent, {count.answered} answered: {', '.join(words)}")
    if as_json:
        print_json(count.as_json())
    raise typer.Exit(0 if count.sent == count.answered and not count.refused else 1)


@app.command()
def watch(
    *,
    station: StationOption = None,
    connect: Annotated[str, typer.Option(help="Address of the station's result socket.")] = "tcp://127.0.0.1:5602",
    save_maps: Annotated[Path | None, typer.Option(help="Write every map as an overlay PNG into this folder.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many results.")] = None,
    idle: Annotated[float | None, typer.Option(min=0.1, help="Stop after this many seconds without a result.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each result as a JSON line, then the totals.")] = False,
) -> None:
    """Show a station's results as they come. Exit code 1 if fewer than --count came, 7 if none did."""
    from runtime import watch as room
    from runtime.subscriber import Subscriber
    from runtime.terminal import print_json

    with Subscriber(_address(station, connect, "results")) as subscriber:
        tally = room.watch(subscriber, as_json=as_json, save_maps=save_maps, count=count, idle_s=idle)
    if as_json:
        print_json(tally.as_json())
    raise typer.Exit(0 if count is None or tally.received >= count else 1)


@app.command()
def status(
    station: StationOption = None,
    connect: Annotated[str, typer.Option(help="Address of the station's status socket.")] = "tcp://127.0.0.1:5603",
    as_json: Json = False,
) -> None:
    """Ask a running station how it is; exit code 0 only when it is ready, 7 when nothing answers."""
    from runtime.subscriber import ask_status
    from runtime.terminal import print_json, print_record

    answer = ask_status(_address(station, connect, "status"))
    if as_json:
        print_json(answer)
    else:
        cameras = answer.pop("cameras")
        print_record(f"station {answer['station']}", answer)
        for name, lane in cameras.items():
            print_record(f"camera {name}", lane)
    raise typer.Exit(0 if answer["ready"] else 1)


@app.command()
def plugins(as_json: Json = False) -> None:
    """List detectors with the package each came from, and plugins that could not be loaded."""
    from runtime.terminal import print_json, show

    registry = _plugins()
    detectors = [registry.describe(name) for name in sorted(registry.detectors)]
    broken = [{"plugin": b.plugin, "distribution": b.distribution, "error": b.error} for b in registry.broken]
    if as_json:
        print_json({"detectors": detectors, "broken": broken})
        return
    show(detectors, False, ("name", "version", "distribution", "plugin"), "detectors")
    broken += [each | {"plugin": each["name"]} for each in detectors if "error" in each]
    if broken:
        show(broken, False, ("plugin", "distribution", "error"), "broken")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: versions, devices, weights, memory, disk; exit code 1 if something is in the way."""
    from runtime.doctor import examine
    from runtime.terminal import show

    findings = examine(_plugins())
    show([finding.as_json() for finding in findings], as_json, ("check", "status", "detail"), f"edgead {__version__}")
    raise typer.Exit(1 if any(finding.status == "fail" for finding in findings) else 0)


# --- templates ----------------------------------------------------------------------------------------------------


@templates_app.command("list")
def templates_list(
    product: Annotated[str | None, typer.Option(help="Only this product's.")] = None,
    store: StoreDir = _STORE,
    as_json: Json = False,
) -> None:
    """List the templates of a store; the active ones are marked."""
    from runtime.inventory import HEADINGS, list_templates
    from runtime.terminal import say, show

    records = list_templates(_store(store), product)
    show(records if as_json else [each | {"template": each["template"][:12]} for each in records], as_json, HEADINGS)
    for record in filter(lambda each: each["error"], records):
        say(f"{record['template'][:12]}: {record['error']}")
    if not records:
        say(f"no template in {store}; `edgead calibrate` makes one")


@templates_app.command("show")
def templates_show(template: TemplateId, store: StoreDir = _STORE, as_json: Json = False) -> None:
    """Show one template: settings, thresholds, provenance, and its ref log."""
    from runtime.inventory import describe_template
    from runtime.terminal import show

    show(describe_template(_store(store), template, brief=not as_json), as_json, title=f"template {template}")


@templates_app.command("activate")
def templates_activate(
    template: TemplateId, store: StoreDir = _STORE, who: Who = "", why: Why = "", as_json: Json = False
) -> None:
    """Verify every byte of a template and make it the one that runs for its product and detector."""
    from runtime.terminal import show

    show(asdict(_store(store).activate(template, who=who or _who(), why=why)), as_json, title="activated")


@templates_app.command("rollback")
def templates_rollback(
    product: Annotated[str, typer.Argument(help="Product.")],
    detector: DetectorName = "hetmm",
    store: StoreDir = _STORE,
    *,
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Go back to the template that ran before the active one; repeated, further back."""
    from runtime.terminal import show

    show(asdict(_store(store).rollback(product, detector, who=who or _who(), why=why)), as_json, title="rolled back")


@templates_app.command("verify")
def templates_verify(
    template: Annotated[str | None, typer.Argument(help="Template id; the whole store without it.")] = None,
    store: StoreDir = _STORE,
    as_json: Json = False,
) -> None:
    """Read every byte and name what is damaged or missing; exit code 4 if anything is."""
    from runtime.terminal import say, show

    problems = _store(store).verify(template)
    if problems or as_json:
        show([asdict(problem) for problem in problems], as_json, ("path", "what", "templates"), "problems")
    else:
        say("every byte is as it was written")
    raise typer.Exit(4 if problems else 0)


@templates_app.command("export")
def templates_export(
    template: TemplateId, file: Annotated[Path, typer.Argument(help="New file.")], store: StoreDir = _STORE
) -> None:
    """Write a template as one file for another box."""
    from runtime.terminal import say

    say(f"wrote {_store(store).export(template, file)}")


@templates_app.command("import")
def templates_import(
    file: Annotated[Path, typer.Argument(help="File made by `templates export`.")],
    store: StoreDir = _STORE,
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Take in an exported template once every byte is proven; activates nothing."""
    from runtime.store import Store
    from runtime.terminal import show

    template = Store.create(store).import_(file, who=who or _who(), why=why)
    show({"template": template.digest, "product": template.manifest.product}, as_json, title="imported")


def _store(folder: Path) -> Store:
    from runtime.store import Store

    return Store(folder)


@weights_app.command("list")
def weights_list(as_json: Json = False) -> None:
    """List the weight files detectors may ask for, and whether this machine has them."""
    from runtime.terminal import print_json, print_record, print_table
    from runtime.weights import state

    records = [
        {"name": w.name, "state": state(w), "file": w.filename, "sha256": w.sha256, "url": w.url, "licence": w.licence}
        for w in _plugins().weights.values()
    ]
    if as_json:
        print_json(records)
        return
    print_table("weights", ("name", "state", "file"), [(each["name"], each["state"], each["file"]) for each in records])
    print_record("licences", {each["name"]: each["licence"] for each in records})


@weights_app.command("add")
def weights_add(file: Annotated[Path, typer.Argument(help="Weight file you have; recognised by its digest.")]) -> None:
    """Take a weight file into edgead's folder after checking its digest."""
    from runtime.terminal import say
    from runtime.weights import add, match

    weight = match(_plugins().weights.values(), file)
    say(f"{weight.name}: {add(weight, file)}")


@weights_app.command("fetch")
def weights_fetch(name: Annotated[str, typer.Argument(help="Name from `edgead weights list`.")]) -> None:
    """Download a weight file and check its digest; a cut download resumes when run again."""
    from runtime.errors import ConfigError
    from runtime.terminal import progress_bars, say
    from runtime.weights import fetch

    known = _plugins().weights
    if name not in known:
        raise ConfigError(f"expected weights of {', '.join(known)}, found {name!r}")
    with progress_bars() as progress:
        path = fetch(known[name], lambda done, total: progress(done, total or 0, f"fetching {name}"))
    say(f"{name}: {path}\nlicence: {known[name].licence}")


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


def main() -> None:
    """Run the command line. What goes wrong is one line on stderr and an exit code: see ``docs/commands.md``."""
    from functools import partial

    from runtime.openmp import wait_passively
    from runtime.shell import run_command

    wait_passively()
    # typer may carry its own copy of click, so "wrong usage" has no name of its own to import.
    run_command(partial(app, standalone_mode=False, prog_name="edgead"), typer.BadParameter.__bases__[0])


if __name__ == "__main__":
    main()
