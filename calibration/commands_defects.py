"""The command group ``edgead defects``: what a training will see, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.options import Json, Preset, Settings, plugins_of

app = typer.Typer(help="Synthetic defects that detectors train on.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``preview`` a command of its own: a group of one command would become that command."""


@app.command("preview")
def preview(
    context: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="Folder of good images, or MVTec layout (train/good).")],
    *,
    out: Annotated[Path, typer.Option(help="Contact sheet to write, PNG.")] = Path("defects.png"),
    textures: Annotated[Path | None, typer.Option(help="Folder of pictures of foreign material.")] = None,
    real: Annotated[
        Path | None, typer.Option("--defects", help="Folder of real defects with masks/, to paste as training does.")
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", "-d", help="The very pictures this detector's training looks at, with this --seed."),
    ] = None,
    preset: Preset = None,
    setting: Settings = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Without --detector, and so without knowing the part: varied-areas (the default), varied, paper or "
            "paper-texture; unseen = what no training draws and CPR's are judged by."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=400, help="Defects on the sheet.")] = 24,
    size: Annotated[
        int | None, typer.Option(min=64, max=1024, help="Without --detector: side frames are resized to, default 320.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw a contact sheet of synthetic defects on your own good parts: each above its mask."""
    from calibration.jobs.preview import PreviewJob, run_preview
    from runtime.terminal import progress_bars, show

    job = PreviewJob(
        dataset=dataset, out=out, textures=textures, defects=real, detector=detector, preset=preset,
        settings=setting or [], recipe=recipe, size=size, count=count, seed=seed,
    )  # fmt: skip
    with progress_bars() as progress:
        summary = run_preview(job, plugins_of(context), progress)
    show(summary, as_json, title="previewed")
