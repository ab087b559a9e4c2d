"""``edgead build``: compile a station's detectors for this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.commands.options import STATION, Json, StationFile, plugins_of

if TYPE_CHECKING:
    from runtime.engines.build import Built

_COLUMNS = {
    "detector": "detector", "batch": "frames", "shape": "size", "precision": "precision", "done": "engine", "mb": "MB",
    "off": "off by",
}  # fmt: skip
_TRIED = {
    "detector": "detector", "precision": "precision", "passed": "passed", "p50_ms": "p50 ms",
    "image_auroc": "AUROC", "pixel_ap": "AP", "note": "why not",
}  # fmt: skip


class _Precision(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


def build(
    context: typer.Context,
    station: StationFile = STATION,
    *,
    camera: Annotated[str | None, typer.Option("--camera", help="Only what this camera needs.")] = None,
    precision: Annotated[
        _Precision | None,
        typer.Option(help="Instead of the station file's; auto: tries all, tells the fastest that stays true."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile the detectors of a station for this machine, prove the engines on the golden frames, and keep them.

    What is there and whole is not built again. `--precision auto` builds every precision and takes the fastest that
    passes the parity gate and loses no more than 0.005 image AUROC and 0.01 pixel AP on planted defects. Exit code 9:
    an engine cannot be built, or answers otherwise than the reference; what runs stays as it is.
    """
    from runtime.engines.ahead import build_station, settings_of, with_choice
    from runtime.station.config import load_station
    from runtime.terminal import print_json, progress_bars, say, show

    loaded, registry = load_station(station), plugins_of(context)
    is_auto = precision is _Precision.AUTO
    wish = with_choice(settings_of(loaded), None if is_auto else precision)
    found: list[dict[str, Any]] = []
    with progress_bars() as progress:
        if is_auto:
            from calibration.fastest import fastest_precision

            chosen, records, found = fastest_precision(loaded, registry, wish, progress, camera)
        else:
            chosen = wish.precision
            records = build_station(loaded, registry, progress, camera=camera, wish=wish)
    if as_json:
        engines = [record.as_json() for record in records]
        print_json({"folder": str(wish.folder), "precision": chosen, "tried": found, "engines": engines})
        return
    if found:
        show(found, False, _TRIED, "precisions")
    show([_row(record) for record in records], False, _COLUMNS, f"engines in {wish.folder}")
    for record in records:
        if record.note:
            say(f"{record.detector}: {record.note}")
    asked = loaded.worker.backend, loaded.worker.precision
    if records and asked not in {(records[0].backend, chosen), ("auto", chosen)}:
        say(f"to run them, say in {station}: worker: {{backend: {records[0].backend}, precision: {chosen}}}")


def _row(record: Built) -> dict[str, Any]:
    return record.as_json() | {
        "shape": "x".join(map(str, record.shape)),
        "done": "not used" if record.note else f"compiled in {record.seconds:.0f} s" if record.compiled else "found",
        "mb": record.size / 1e6,
        "off": record.parity["map_difference"],
    }
