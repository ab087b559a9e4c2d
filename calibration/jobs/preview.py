"""The job behind `edgead defects preview`: synthetic defects on good parts, as one picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from calibration.contact_sheet import Picture, write_contact_sheet
from calibration.dataset import references_from
from calibration.jobs.checks import make_room
from calibration.materials import read_materials
from calibration.references import References
from calibration.synthetic.defects import DEFECT_RECIPES, PlantedDefect, SyntheticDefects
from calibration.synthetic.textures import Kept, as_rgb
from calibration.synthetic.unseen import UNSEEN_KINDS, draw_unseen
from runtime.errors import ConfigError
from runtime.images import write_png
from runtime.inspection import Verdict

#: What is said instead of a recipe for the damage that trainings are judged by.
UNSEEN = "unseen"


@dataclass(frozen=True, kw_only=True)
class PreviewJob:
    """What `edgead defects preview` was asked."""

    dataset: Path
    out: Path
    textures: Path | None = None
    defects: Path | None = None
    recipe: str = "varied-areas"
    count: int = 24
    size: int = 320
    seed: int = 0


def run_preview(job: PreviewJob) -> dict[str, Any]:
    """Draw the first ``count`` defects of the seed on the references, in turn; return a summary."""
    if job.recipe not in (*DEFECT_RECIPES, UNSEEN):
        known = ", ".join((*DEFECT_RECIPES, UNSEEN))
        raise ConfigError(f"--recipe: expected one of {known}, found {job.recipe!r}")
    references = References(references_from(job.dataset))
    drawn = _unseen(job, references) if job.recipe == UNSEEN else _planted(job, references)
    make_room(job.out)
    with TemporaryDirectory() as folder:
        write_contact_sheet([_picture(each, Path(folder), number) for number, each in enumerate(drawn)], job.out)
    shares = [float(each.mask.mean()) for each in drawn if each.mask.any()]
    return {
        "sheet": str(job.out),
        "defects": len(shares),
        "kinds": dict(sorted(Counter(each.kind for each in drawn).items())),
        "median_area_share": round(float(np.median(shares)), 5) if shares else None,
    }


def _planted(job: PreviewJob, references: References) -> list[PlantedDefect]:
    materials = read_materials(textures=job.textures, defects=job.defects, checkpoint=None, budget_min=None)
    defects = SyntheticDefects(
        references,
        textures=materials.textures,
        defects=materials.defects,
        recipe=DEFECT_RECIPES[job.recipe],
        seed=job.seed,
    )
    frames = Kept(references)
    return [defects.draw(frames.at(number % len(references), job.size), number) for number in range(job.count)]


def _unseen(job: PreviewJob, references: References) -> list[PlantedDefect]:
    """Draw the kinds in turn; they are made of the references alone."""
    frames, kinds = Kept(references), list(UNSEEN_KINDS)
    drawn = []
    for number in range(job.count):
        image, other = (as_rgb(frames.at(which % len(references), job.size)) for which in (number, number + 1))
        rng = np.random.default_rng([job.seed, number])
        drawn.append(draw_unseen(image, other, kinds[number % len(kinds)], rng))
    return drawn


def _picture(drawn: PlantedDefect, folder: Path, number: int) -> Picture:
    frame, overlay = folder / f"{number}.png", folder / f"{number}_mask.png"
    write_png(frame, np.ascontiguousarray(drawn.image))
    write_png(overlay, np.where(drawn.mask, 255, 0).astype(np.uint8))
    caption = f"{number} {drawn.kind} {drawn.mask.mean():.1%}"
    return Picture(frame, overlay, caption, Verdict.NOT_OK if drawn.mask.any() else Verdict.OK)
