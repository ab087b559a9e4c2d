"""What a detector that trains may be given beside its references: textures, real defects, room for unfinished work.

A folder of real defects::

    DIR/*             images of defective parts
    DIR/masks/*       the mask of NAME.*: NAME_mask.* or NAME.*, as large as the image, defect = white

Listing is done before the long part of a job begins, and every mask is read once then: what is missing or damaged is
said before hours are spent. Pixels are decoded when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from calibration.dataset import Sample, read_mask
from calibration.references import References
from runtime.checkpoint import Checkpoint
from runtime.detector import MaskedFrame
from runtime.errors import ConfigError
from runtime.frame import Frame
from runtime.images import list_images, read_image

MASKS = "masks"
_SUFFIX = "_mask"


@dataclass(frozen=True, kw_only=True)
class Materials:
    """See ``DetectorContext``, whose fields of the same names these become."""

    textures: Sequence[Frame] = ()
    defects: Sequence[MaskedFrame] = ()
    checkpoint: Checkpoint | None = None
    budget_s: float | None = None


class Defects(Sequence[MaskedFrame]):
    """Defective parts with masks; ``defects[i]`` reads two files."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> MaskedFrame: ...
    @overload
    def __getitem__(self, index: slice) -> Defects: ...
    def __getitem__(self, index: int | slice) -> MaskedFrame | Defects:
        if isinstance(index, slice):
            return Defects(self.samples[index])
        sample = self.samples[index]
        image = read_image(sample.path)
        return MaskedFrame(Frame(image, sample.name), read_mask(sample, (image.shape[0], image.shape[1])))


def read_materials(
    *, textures: Path | None, defects: Path | None, checkpoint: Path | None, budget_min: float | None
) -> Materials:
    """List and check what was named; None: nothing of that kind.

    Raises ``ConfigError`` for a folder without images, an image without a mask, a mask that is empty or of another size
    than its image, an image that cannot be decoded, a checkpoint folder that is a file, and a budget that is no time.
    """
    if budget_min is not None and not budget_min > 0:
        raise ConfigError(f"--budget: expected minutes above 0, found {budget_min:g}")
    if checkpoint is not None and checkpoint.is_file():
        raise ConfigError(f"--checkpoint: expected a folder, found the file {checkpoint}: name another place")
    return Materials(
        textures=() if textures is None else read_textures(textures),
        defects=() if defects is None else read_defects(defects),
        checkpoint=None if checkpoint is None else Checkpoint(checkpoint),
        budget_s=None if budget_min is None else 60.0 * budget_min,
    )


def read_textures(folder: Path) -> References:
    """List pictures of foreign material: the images in ``folder`` and its sub-folders, hidden ones left out."""
    folders = [folder, *sorted(each for each in folder.rglob("*") if each.is_dir() and not each.name.startswith("."))]
    found = [path for each in folders for path in list_images(each)]
    if not found:
        raise ConfigError(
            f"--textures: expected pictures of foreign material in {folder}, found none: name a folder of images, or "
            "leave the option out to use built-in textures"
        )
    return References([Sample(path, path.relative_to(folder).as_posix(), "texture", None) for path in found])


def read_defects(folder: Path) -> Defects:
    """List images of defective parts with their masks, and read every mask once."""
    images = list_images(folder)
    if not images:
        raise ConfigError(f"--defects: expected images of defective parts in {folder}, found none: see docs/cpr.md")
    masks = {path.stem: path for path in list_images(folder / MASKS)} if (folder / MASKS).is_dir() else {}
    samples = []
    for path in images:
        mask = masks.get(path.stem + _SUFFIX) or masks.get(path.stem)
        if mask is None:
            raise ConfigError(
                f"--defects: expected a mask for {path.name} at {folder / MASKS / (path.stem + _SUFFIX)}.png, found "
                "none: draw the defect white on black, or leave the image out"
            )
        samples.append(Sample(path, path.name, "defect", mask))
    defects = Defects(samples)
    for sample, defect in zip(samples, defects, strict=True):
        if not defect.mask.any():
            raise ConfigError(
                f"--defects: expected a defect in the mask of {sample.name}, found it black: draw the defect white, or "
                "leave the image out"
            )
    return defects
