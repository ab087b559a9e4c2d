"""The command group ``edgead defects``: what a training will see, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.options import Json

app = typer.Typer(help="Synthetic defects that detectors train on.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``preview`` a command of its own: a group of one command would become that command."""


@app.command("preview")
def preview(
    dataset: Annotated[Path, typer.Argument(help="Folder of good images, or MVTec layout (train/good).")],
    *,
    out: Annotated[Path, typer.Option(help="Contact sheet to write, PNG.")] = Path("defects.png"),
    textures: Annotated[Path | None, typer.Option(help="Folder of pictures of foreign material.")] = None,
    real: Annotated[
        Path | None, typer.Option("--defects", help="Folder of real defects with masks/, to paste as training does.")
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="varied-areas (training by default, here without its missing pieces: no part is known), varied, "
            "paper or paper-texture (`train: full`); unseen = what no training draws and CPR's are judged by."
        ),
    ] = "varied-areas",
    count: Annotated[int, typer.Option(min=1, max=400, help="Defects on the sheet.")] = 24,
    size: Annotated[int, typer.Option(min=64, max=1024, help="Side frames are resized to, pixels.")] = 320,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw a contact sheet of synthetic defects on your own good parts: each above its mask."""
    from calibration.jobs.preview import PreviewJob, run_preview
    from runtime.terminal import show

    job = PreviewJob(
        dataset=dataset, out=out, textures=textures, defects=real, recipe=recipe, count=count, size=size, seed=seed
    )
    show(run_preview(job), as_json, title="previewed")
