"""Sets of image files on disk: references to build a template from, and test images with labels and masks.

Two layouts are read. The layout of MVTec AD (Bergmann et al., CVPR 2019)::

    train/good/*                       references
    test/good/*, test/<defect>/*       test images; the folder is the label
    ground_truth/<defect>/NAME_mask.*  mask of test/<defect>/NAME.*; plain NAME.* and a folder NAME/ of masks also work

or a plain folder of good images: references only, no test. Nothing is dropped in silence: what contradicts the layout
is a ConfigError, and what is merely left unread is named in ``Dataset.warnings``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import ConfigError
from runtime.images import list_images, natural_key, read_stored

GOOD = "good"
_MASK_SUFFIX = "_mask"


@dataclass(frozen=True)
class Sample:
    """One image file of a set."""

    path: Path
    name: str
    """Posix path relative to the root of the set, for example ``test/crack/004.png``."""
    label: str
    """``good``, or the name of the defect class."""
    mask_path: Path | None
    """Mask file (or folder of mask files) beside the set's images; None when there is none."""

    @property
    def is_defect(self) -> bool:
        """Whether the part on this image is labelled defective."""
        return self.label != GOOD


@dataclass(frozen=True)
class Dataset:
    """What a folder of images holds; every tuple in natural order of the file names."""

    root: Path
    references: tuple[Sample, ...]
    test: tuple[Sample, ...]
    warnings: tuple[str, ...] = ()
    """What the reader should know: classes with masks for some images only, empty classes, entries left unread."""


def read_dataset(root: Path) -> Dataset:
    """List a set in either layout; pixels are not read.

    Raises ConfigError for a missing folder, no reference images, images directly in ``test``, two images of one folder
    with one stem, a mask without its image, and two masks for one image.
    """
    root = Path(root)
    references = references_from(root)
    warnings = _unread_references(root)
    test: list[Sample] = []
    if _has_layout(root) and (root / "test").is_dir():
        if list_images(root / "test"):
            raise ConfigError(
                f"expected one folder per class in {root / 'test'}, found images directly in it: "
                f"move them to test/{GOOD} or test/<defect>"
            )
        warnings += _unread(root, root / "test", folders_belong=True)
        test = [sample for folder in _folders(root / "test") for sample in _test_class(root, folder, warnings)]
    if _has_layout(root):
        _refuse_masks_without_class(root)
        if loose := list_images(root):
            warnings.append(f"{len(loose)} images beside train and test are not read, the first is {loose[0].name}")
    return Dataset(root=root, references=references, test=tuple(test), warnings=tuple(warnings))


def references_from(root: Path) -> tuple[Sample, ...]:
    """List only the references of a set: ``train/good`` in the MVTec layout, else the images directly in ``root``.

    Raises ConfigError when there are none, or two with one stem.
    """
    root = Path(root)
    folder = _reference_folder(root)
    samples = _samples(root, folder, GOOD, {})
    if not samples:
        raise ConfigError(
            f"expected good images in {folder}, found none: give a folder of images, or a set with train/{GOOD}, "
            f"test/{GOOD}, test/<defect> and ground_truth/<defect>"
        )
    return samples


def read_mask(sample: Sample, shape: tuple[int, int]) -> np.ndarray:
    """Read the ground-truth mask of a sample as bool [H, W], True on the defect; ``shape`` is the image's (H, W).

    A good sample without a mask gives all False. Values from 128 of 255 (32768 of 65535) count as defect; in a file
    whose largest value is below that (class numbers 1, 2, ...) every value above 0 does. Several files, or colour
    channels, are united. An empty mask of a defect sample is returned as it is: some sets have them, and the pixels of
    that defect then count as defect-free. Raises ConfigError for a defect sample without a mask, a mask of another size
    than the image, and a good sample whose mask is not empty.
    """
    if sample.mask_path is None:
        if sample.is_defect:
            raise ConfigError(f"expected a mask for {sample.name}, found none: leave it out of the pixel metrics")
        return np.zeros(shape, dtype=bool)
    mask = np.zeros(shape, dtype=bool)
    for path in list_images(sample.mask_path) if sample.mask_path.is_dir() else [sample.mask_path]:
        values = read_stored(path)
        if values.shape[:2] != tuple(shape):
            raise ConfigError(
                f"expected the mask {path} to be as large as its image {sample.name}, {_size(shape)}, "
                f"found {_size(values.shape)}: export the mask again at the image's size"
            )
        values = values.max(axis=2) if values.ndim > mask.ndim else values
        # Drawn in black and white, so the cut is half of white; below it throughout, the file holds class numbers.
        half = np.iinfo(values.dtype).max // 2 + 1
        mask |= values >= half if values.max() >= half else values > 0
    if mask.any() and not sample.is_defect:
        raise ConfigError(
            f"expected an empty mask for the good image {sample.name}, found {int(mask.sum())} defect pixels"
        )
    return mask


def _has_layout(root: Path) -> bool:
    return (root / "train").is_dir() or (root / "test").is_dir()


def _reference_folder(root: Path) -> Path:
    return root / "train" / GOOD if _has_layout(root) else root


def _unread_references(root: Path) -> list[str]:
    warnings = _unread(root, _reference_folder(root))
    if _has_layout(root):
        others = [other.name for other in _folders(root / "train") if other.name != GOOD]
        warnings += [f"train/{other} is not read: only train/{GOOD} holds references" for other in others]
    return warnings


def _folders(parent: Path) -> list[Path]:
    folders = [entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(folders, key=lambda folder: natural_key(folder.name))


def _samples(root: Path, folder: Path, label: str, masks: dict[str, Path]) -> tuple[Sample, ...]:
    images = list_images(folder)
    _refuse_duplicate_stems(images)
    return tuple(
        Sample(path=path, name=path.relative_to(root).as_posix(), label=label, mask_path=masks.get(path.stem))
        for path in images
    )


def _refuse_duplicate_stems(images: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in images:
        if (other := seen.setdefault(path.stem, path)) is not path:
            raise ConfigError(
                f"expected one file per stem in {path.parent}, found {other.name} and {path.name}: "
                "masks are matched by stem; rename or remove one"
            )


def _test_class(root: Path, folder: Path, warnings: list[str]) -> tuple[Sample, ...]:
    if folder.name != GOOD and folder.name.lower() == GOOD:
        raise ConfigError(f"expected the good test images in test/{GOOD}, found test/{folder.name}: rename the folder")
    images = list_images(folder)
    truth = root / "ground_truth" / folder.name
    masks = dict(_pair_masks(truth, {path.stem for path in images})) if truth.is_dir() else {}
    samples = _samples(root, folder, folder.name, masks)
    warnings += _unread(root, folder)
    if not samples:
        warnings.append(f"test/{folder.name} holds no images")
    if folder.name != GOOD and 0 < len(masks) < len(samples):
        without = [sample.name for sample in samples if sample.mask_path is None]
        warnings.append(
            f"test/{folder.name} has masks for {len(masks)} of {len(samples)} images; without: {', '.join(without[:5])}"
            + (f" and {len(without) - 5} more" if len(without) > 5 else "")  # noqa: PLR2004 - five names fit a line
        )
    if truth.is_dir():
        warnings += _unread(root, truth, folders_belong=True)
    return samples


def _pair_masks(truth: Path, stems: set[str]) -> Iterator[tuple[str, Path]]:
    """Yield (image stem, mask path) for every mask in ``truth``; refuse one without its image and a second for one."""
    paired: dict[str, Path] = {}
    for mask in [*list_images(truth), *_folders(truth)]:
        # A folder's name has no suffix: NAME.v2/ is the folder of the image NAME.v2.png.
        name = mask.name if mask.is_dir() else mask.stem
        cut = name[: -len(_MASK_SUFFIX)] if name.lower().endswith(_MASK_SUFFIX) else name
        stem = cut if cut in stems else name
        if stem not in stems:
            raise ConfigError(
                f"expected an image named {cut} in test/{truth.name} for the mask {mask}, found none: "
                "add the image or remove the mask"
            )
        if stem in paired:
            raise ConfigError(
                f"expected one mask for {stem} in {truth}, found {paired[stem].name} and {mask.name}: remove one"
            )
        if mask.is_dir() and not list_images(mask):
            raise ConfigError(f"expected mask images in the folder {mask}, found none: remove it or fill it")
        paired[stem] = mask
        yield stem, mask


def _refuse_masks_without_class(root: Path) -> None:
    truth = root / "ground_truth"
    for folder in _folders(truth) if truth.is_dir() else []:
        if not (root / "test" / folder.name).is_dir():
            raise ConfigError(
                f"expected the images of the masks in {folder} in {root / 'test' / folder.name}, found no such folder: "
                "add the images or remove the masks"
            )


def _unread(root: Path, folder: Path, *, folders_belong: bool = False) -> list[str]:
    """Name the entries of a folder which no reader takes: files of another kind, and folders that do not belong."""
    images = set(list_images(folder))
    left = [
        entry.name + ("/" if entry.is_dir() else "")
        for entry in folder.iterdir()
        if entry not in images and not entry.name.startswith(".") and not (folders_belong and entry.is_dir())
    ]
    if not left:
        return []
    where = folder.relative_to(root).as_posix()
    return [f"{len(left)} entries of {where} are not images and are not read, the first is {min(left)}"]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} px"
