"""The job behind `edgead defects preview`: synthetic defects on good parts, as one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.calibrate import Progress
from calibration.contact_sheet import Picture, write_contact_sheet
from calibration.dataset import references_from
from calibration.jobs.checks import chosen_settings, make_room
from calibration.materials import read_materials
from calibration.references import References
from calibration.synthetic.defects import DEFECT_RECIPES, PlantedDefect, SyntheticDefects
from calibration.synthetic.textures import Kept, as_rgb
from calibration.synthetic.unseen import UNSEEN_KINDS, draw_unseen
from runtime.detector import Detector, DetectorContext
from runtime.errors import ConfigError
from runtime.images import write_png
from runtime.inspection import Verdict
from runtime.registry import Registry

if TYPE_CHECKING:
    from pydantic import BaseModel

#: What is said instead of a recipe for the damage that trainings are judged by.
UNSEEN = "unseen"
#: Recipe and side where none was asked for, pixels.
RECIPE, SIZE = "varied-areas", 320


@dataclass(frozen=True, kw_only=True)
class PreviewJob:
    """What `edgead defects preview` was asked."""

    dataset: Path
    out: Path
    textures: Path | None = None
    defects: Path | None = None
    detector: str | None = None
    preset: str | None = None
    settings: list[str] = field(default_factory=list)
    recipe: str | None = None
    size: int | None = None
    count: int = 24
    seed: int = 0


def run_preview(job: PreviewJob, registry: Registry, progress: Progress) -> dict[str, Any]:
    """Draw a sheet of the first ``count`` pictures of a detector's training or of a recipe; return a summary."""
    draw = _chosen(job, registry, progress)
    references = References(references_from(job.dataset))
    make_room(job.out)
    drawn = draw(references)
    with TemporaryDirectory() as folder:
        write_contact_sheet([_picture(each, Path(folder), number) for number, each in enumerate(drawn)], job.out)
    shares = [float(each.mask.mean()) for each in drawn if each.mask.any()]
    return {
        "sheet": str(job.out),
        "defects": len(shares),
        "kinds": dict(sorted(Counter(each.kind for each in drawn).items())),
        "median_area_share": round(float(np.median(shares)), 5) if shares else None,
    }


def _chosen(job: PreviewJob, registry: Registry, progress: Progress) -> Callable[[References], list[PlantedDefect]]:
    """Return what draws; raise ``ConfigError`` for what was asked and cannot be."""
    if job.detector is not None:
        _refuse("with --detector, which has its own", {"--recipe": job.recipe, "--size": job.size})
        detector = registry.detector(job.detector)
        settings = chosen_settings(detector, job.preset, job.settings)
        return lambda references: _trained_on(job, detector, settings, references, progress)
    _refuse("without --detector, whose they are", {"--preset": job.preset, "--set": job.settings})
    if job.recipe not in (None, *DEFECT_RECIPES, UNSEEN):
        known = ", ".join((*DEFECT_RECIPES, UNSEEN))
        raise ConfigError(f"--recipe: expected one of {known}, found {job.recipe!r}")
    return lambda references: (_unseen if job.recipe == UNSEEN else _planted)(job, references)


def _refuse(why: str, options: Mapping[str, object]) -> None:
    for name, given in options.items():
        if given:
            raise ConfigError(f"{name}: expected none {why}, found {given}")


def _trained_on(
    job: PreviewJob, detector: Detector, settings: BaseModel, references: References, progress: Progress
) -> list[PlantedDefect]:
    """Ask a detector for the very pictures that its training looks at."""
    materials = read_materials(textures=job.textures, defects=job.defects, checkpoint=None, budget_min=None)
    context = DetectorContext(seed=job.seed, progress=progress, textures=materials.textures, defects=materials.defects)
    drawn = detector.training_pictures(references, settings, context, job.count)
    if drawn is None:
        raise ConfigError(
            f"--detector: expected one that shows what it trains on (Detector.training_pictures), found {detector.name}"
        )
    return [PlantedDefect(each.frame.image, each.mask, each.frame.name) for each in drawn]


def _planted(job: PreviewJob, references: References) -> list[PlantedDefect]:
    materials = read_materials(textures=job.textures, defects=job.defects, checkpoint=None, budget_min=None)
    defects = SyntheticDefects(
        references,
        textures=materials.textures,
        defects=materials.defects,
        recipe=DEFECT_RECIPES[job.recipe or RECIPE],
        seed=job.seed,
    )
    frames, size = Kept(references), job.size or SIZE
    return [defects.draw(frames.at(number % len(references), size), number) for number in range(job.count)]


def _unseen(job: PreviewJob, references: References) -> list[PlantedDefect]:
    """Draw the kinds in turn; they are made of the references alone."""
    frames, kinds = Kept(references), list(UNSEEN_KINDS)
    drawn = []
    for number in range(job.count):
        image, other = (as_rgb(frames.at(which % len(references), job.size or SIZE)) for which in (number, number + 1))
        rng = np.random.default_rng([job.seed, number])
        drawn.append(draw_unseen(image, other, kinds[number % len(kinds)], rng))
    return drawn


def _picture(drawn: PlantedDefect, folder: Path, number: int) -> Picture:
    frame, overlay = folder / f"{number}.png", folder / f"{number}_mask.png"
    write_png(frame, np.ascontiguousarray(drawn.image))
    write_png(overlay, np.where(drawn.mask, 255, 0).astype(np.uint8))
    caption = f"{number} {drawn.kind} {drawn.mask.mean():.1%}"
    return Picture(frame, overlay, caption, Verdict.NOT_OK if drawn.mask.any() else Verdict.OK)
