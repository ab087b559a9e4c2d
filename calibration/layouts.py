"""Whole benchmark data sets on disk: which one a folder holds, which of its categories, and their images.

Recognised by the names of the categories' folders. Each category is in the MVTec layout of ``calibration.dataset``
(VisA also as it is published, with ``split_csv/1cls.csv``; MVTec 3D-AD and BTAD as ``calibration.relatives`` says);
nothing has to be converted first. Published by: MVTec AD Bergmann et al., CVPR 2019; MVTec LOCO Bergmann et al., IJCV
2022; VisA Zou et al., ECCV 2022; magnetic tile Huang et al., The Visual Computer 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from calibration.dataset import GOOD, Dataset, read_dataset
from calibration.relatives import read_btad, read_mvtec_3d
from calibration.visa import SPLIT, read_visa
from runtime.errors import ConfigError


@dataclass(frozen=True)
class Benchmark:
    """One published data set."""

    name: str
    """Its name in protocols, for example ``mvtec-ad``."""
    title: str
    categories: tuple[str, ...]
    """Names of the categories, as its folders are called."""
    averaged_classes: tuple[str, ...] = ()
    """Defect classes whose image AUROCs, each against all good images, the benchmark averages; none: all in one."""
    defects: tuple[str, ...] = ()
    """For a set of one category, whose folder may have any name: its defect classes, by which it is recognised."""
    remarks: tuple[str, ...] = ()
    """Sentences the reader of its figures needs."""
    read: Callable[[Path], Dataset] = read_dataset
    """Reads one category's folder."""


MVTEC_AD = Benchmark(
    "mvtec-ad",
    "MVTec AD",
    ("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
     "toothbrush", "transistor", "wood", "zipper"),
)  # fmt: skip
VISA = Benchmark(
    "visa",
    "VisA",
    ("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3", "pcb4",
     "pipe_fryum"),
)  # fmt: skip
MVTEC_LOCO = Benchmark(
    "mvtec-loco",
    "MVTec LOCO AD",
    ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors"),
    averaged_classes=("logical_anomalies", "structural_anomalies"),
    remarks=(
        "image AUROC is the mean of logical and structural anomalies, as in the benchmark; validation/good is not read",
        "pixel figures take all masks of an image as one: the benchmark's own sPRO, which saturates, is not computed",
    ),
)
MAGNETIC_TILE = Benchmark(
    "mtd",
    "magnetic tile defects",
    ("magnetic_tile",),
    defects=("blowhole", "break", "crack", "fray", "uneven"),
    remarks=("the data set is published without a split into train and test: another split gives other figures",),
)
MVTEC_3D = Benchmark(
    "mvtec-3d",
    "MVTec 3D-AD (colour)",
    ("bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire"),
    remarks=("only the colour images are read: neither the depth nor validation/good",),
    read=read_mvtec_3d,
)
BTAD = Benchmark("btad", "BTAD", ("01", "02", "03"), read=read_btad)

BENCHMARKS = (MVTEC_AD, VISA, MVTEC_LOCO, MAGNETIC_TILE, MVTEC_3D, BTAD)


@dataclass(frozen=True)
class BenchmarkOnDisk:
    """What a folder holds of a benchmark."""

    benchmark: Benchmark
    categories: Mapping[str, Dataset]
    """The categories that are there, in the benchmark's order."""
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    """What the reader should know: folders left unread, and what each category's reader has to say."""


def read_benchmark(root: Path) -> BenchmarkOnDisk:
    """Recognise the benchmark in ``root`` and list the images of every category; pixels are not read.

    ``root``: the folder of the categories (some may be missing), or one category's own folder. Raises ConfigError for a
    folder that is missing, holds none of the benchmarks or several, or contradicts its layout.
    """
    root = Path(root)
    if not root.is_dir():
        raise ConfigError(f"expected the folder of a benchmark data set, found none at {root}: give its path")
    benchmark, folders = _recognise(root)
    if (root / SPLIT).is_file() and benchmark is VISA:
        categories = read_visa(root, tuple(folders))
    else:
        categories = {category: benchmark.read(folder) for category, folder in folders.items()}
    for category, dataset in categories.items():
        if not (dataset.references and dataset.test):
            raise ConfigError(
                f"{benchmark.title}, {category}: expected train/{GOOD} and test/* in {folders[category]}, "
                "found no test images: unpack the whole category or remove its folder"
            )
    others = {folder.name for folder in _folders(root)} - {folder.name for folder in folders.values()}
    unread = sorted(others - {Path(SPLIT).parts[0]}) if root not in folders.values() else []
    return BenchmarkOnDisk(
        benchmark=benchmark,
        categories=categories,
        missing=tuple(category for category in benchmark.categories if category not in categories),
        warnings=(
            *(
                [f"folders that are no category of {benchmark.title} are not read: {', '.join(unread)}"]
                if unread
                else []
            ),
            *(f"{category}: {warning}" for category, dataset in categories.items() for warning in dataset.warnings),
        ),
    )


def _recognise(root: Path) -> tuple[Benchmark, dict[str, Path]]:
    """Return the benchmark and the folder of each category that is there."""
    if (root / "train").is_dir():
        found = _one_category(root)
    else:
        names = {folder.name for folder in _folders(root)}
        found = [
            (benchmark, {category: root / category for category in benchmark.categories if category in names})
            for benchmark in BENCHMARKS
            if not names.isdisjoint(benchmark.categories)
        ]
    if len(found) == 1:
        return found[0]
    if found:
        titles = " and ".join(benchmark.title for benchmark, _ in found)
        raise ConfigError(f"expected one benchmark data set in {root}, found {titles}: give each a folder of its own")
    known = "; ".join(f"{each.title} ({', '.join(each.defects or each.categories)})" for each in BENCHMARKS)
    raise ConfigError(
        f"expected the folder of a benchmark data set with its categories' folders in {root}, found none of: {known}"
    )


def _one_category(folder: Path) -> list[tuple[Benchmark, dict[str, Path]]]:
    """Return the benchmark that a single category's folder belongs to, by its name, else by its defect classes."""
    name = folder.resolve().name
    named = [(each, {name: folder}) for each in BENCHMARKS if name in each.categories]
    classes = {each.name for each in _folders(folder / "test")} - {GOOD}
    alike = [(each, {each.categories[0]: folder}) for each in BENCHMARKS if classes and classes <= set(each.defects)]
    return named or alike


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
