"""Two relatives of the MVTec layout, as they are published: MVTec 3D-AD's colour images, and BTAD.

MVTec 3D-AD (Bergmann et al., VISAPP 2022) has a folder for each kind of measurement; only the colour images are read::

    train/good/rgb/*    test/<defect>/rgb/NAME.*    test/<defect>/gt/NAME.* (masks; of good parts, too, all empty)

BTAD (Mishra et al., ISIE 2021) says ok and ko; its masks are in another format than its images in places::

    train/ok/*    test/ok/*, test/ko/*    ground_truth/ko/NAME.*
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from calibration.dataset import GOOD, Dataset, Sample
from runtime.errors import ConfigError
from runtime.images import list_images, natural_key


def read_mvtec_3d(root: Path) -> Dataset:
    """List one category's colour images; pixels are not read. Raises ConfigError for another layout."""
    return _read(root, "train/good/rgb", GOOD, "rgb", lambda name: root / "test" / name / "gt")


def read_btad(root: Path) -> Dataset:
    """List one category's images; pixels are not read. Raises ConfigError for another layout."""
    return _read(root, "train/ok", "ok", ".", lambda name: root / "ground_truth" / name)


def _read(root: Path, references: str, good: str, inner: str, truth: Callable[[str], Path]) -> Dataset:
    if not (root / references).is_dir() or not (root / "test").is_dir():
        raise ConfigError(f"expected {references} and test in {root}, found another layout: unpack the whole category")
    classes = [folder for folder in (root / "test").iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    test = []
    for folder in sorted(classes, key=lambda each: natural_key(each.name)):
        label = GOOD if folder.name == good else folder.name
        test += _samples(root, folder / inner, label, truth(folder.name))
    found = _samples(root, root / references, GOOD, None)
    if not found:
        raise ConfigError(f"expected good images in {root / references}, found none: unpack the whole category")
    return Dataset(root=root, references=tuple(found), test=tuple(test))


def _samples(root: Path, folder: Path, label: str, truth: Path | None) -> list[Sample]:
    masks = {path.stem: path for path in list_images(truth)} if truth is not None and truth.is_dir() else {}
    images = list_images(folder) if folder.is_dir() else []
    stems = {path.stem for path in images}
    if missing := sorted(stems - masks.keys()) if label != GOOD else []:
        raise ConfigError(
            f"expected a mask for {folder / missing[0]} in {truth}, found none: unpack the whole category"
        )
    return [
        Sample(path=path, name=path.relative_to(root).as_posix(), label=label, mask_path=masks.get(path.stem))
        for path in images
    ]
