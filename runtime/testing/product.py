"""The simulated product: pictures of a machined bracket on an inspection bench, good or with one exact defect.

`edgead demo` and the system tests run on these pictures where there is no camera and no data. Every random choice
comes from its own Philox stream named by (seed, index, concern), never from global state: one (seed, index, defect)
gives the same bytes in every process with the same numpy and OpenCV. The stream of the defect is apart from those of
pose, light and texture, so ``draw(index)`` is the clean twin of ``draw(index, defect)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from runtime.errors import ConfigError
from runtime.testing.bench import Lighting, Pose, Shot, choose_lighting, choose_pose, photograph, weave_belt
from runtime.testing.defects import KINDS
from runtime.testing.plate import OVERSAMPLING, Plate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

DEFECTS: tuple[str, ...] = tuple(KINDS)
VISIBLE_LEVELS = 6
"""A pixel belongs to the mask when a channel differs from the clean twin by more than this many of 255 levels: about
three times the sensor noise, so a fainter change cannot be told from noise. Fainter changes are not drawn."""
SMALLEST_SIDE = 128
"""Below this the lot code and the scratches are thinner than a pixel."""

_DESIGN, _POSE, _LIGHT, _FINISH, _BELT, _NOISE, _DEFECT = range(7)
_TINTS = ((0.660, 0.672, 0.684), (0.700, 0.640, 0.520), (0.560, 0.610, 0.680), (0.640, 0.625, 0.600))


@dataclass(frozen=True)
class Part:
    """One picture with its truth.

    ``image`` uint8 [H, W, 3] RGB; ``mask`` bool [H, W], exactly the pixels where the image differs from its clean twin;
    ``label`` "good" or one of `DEFECTS`.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    label: str


class SimulatedProduct:
    """One product on one bench. ``seed`` chooses metal, lot code and all jitter; ``size`` is (height, width) in px.

    Products of every seed have the same shape; the lot code follows the seed, the metal is one of four in turn. Raises
    ConfigError for a negative seed or a side under `SMALLEST_SIDE`.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (320, 320)) -> None:
        if seed < 0:
            raise ConfigError(f"simulated product: expected a seed of 0 or more, found {seed}; choose another seed")
        if min(size) < SMALLEST_SIDE:
            raise ConfigError(
                f"simulated product: expected a size (height, width) of at least {SMALLEST_SIDE} px each way, "
                f"found {size}; ask for larger pictures and let the detector resize them"
            )
        self.seed = seed
        self.size = size

    @cached_property
    def plate(self) -> Plate:
        """The design shared by all parts of this product, drawn on first use."""
        random = self._stream(0, _DESIGN)
        height, width = self.size
        lot = f"LOT {random.integers(10, 53):02d}{'ABCDEFGH'[random.integers(8)]}{random.integers(100, 1000)}"
        return Plate((height * OVERSAMPLING, width * OVERSAMPLING), _TINTS[self.seed % len(_TINTS)], lot)

    def pose(self, index: int) -> Pose:
        """How part ``index`` lies on the belt."""
        return choose_pose(self._stream(index, _POSE))

    def lighting(self, index: int) -> Lighting:
        """How part ``index`` is lit."""
        return choose_lighting(self._stream(index, _LIGHT))

    def draw(self, index: int, defect: str | None = None) -> Part:
        """Part number ``index``, good or with the named defect; the good one is the clean twin of the others.

        Raises ConfigError for a negative index or a word that is not in `DEFECTS`.
        """
        if index < 0:
            raise ConfigError(f"simulated product: expected an index of 0 or more, found {index}")
        if defect is not None and defect not in KINDS:
            raise ConfigError(
                f"simulated product: expected a defect of {', '.join(DEFECTS)}, found {defect!r}; "
                "leave it out for a good part"
            )
        shot = self._shot(index)
        clean = photograph(self.plate, self.plate.layers, shot)
        if defect is None:
            return Part(clean, np.zeros(self.size, np.bool_), "good")
        random = self._stream(index, _DEFECT, DEFECTS.index(defect))
        spoilt = photograph(self.plate, KINDS[defect](self.plate, random), shot)
        faint = cv2.inRange(cv2.absdiff(spoilt, clean), (0, 0, 0), (VISIBLE_LEVELS,) * 3)
        mask: NDArray[np.bool_] = faint == 0
        return Part(np.where(mask[..., None], spoilt, clean), mask, defect)

    def _shot(self, index: int) -> Shot:
        return Shot(
            pose=self.pose(index),
            lighting=self.lighting(index),
            finish=self.plate.finish(self._stream(index, _FINISH)),
            belt=weave_belt(self._stream(index, _BELT), self.size),
            noise=self._stream(index, _NOISE).standard_normal((*self.size, 3), dtype=np.float32),
        )

    def _stream(self, index: int, *concern: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, index, *concern))))


def write_dataset(
    root: Path,
    product: SimulatedProduct,
    references: int,
    good: int,
    defects_per_kind: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write pictures of ``product`` under ``root`` in the MVTec layout and count them, masks aside.

    ``train/good`` holds ``references`` good parts, ``test/good`` another ``good``, ``test/<kind>`` and
    ``ground_truth/<kind>`` (NAME_mask.png, 0 or 255) ``defects_per_kind`` of each of `DEFECTS`. No two pictures show
    the same part. ``progress`` is called with (written, total) after each picture. Raises ConfigError for a negative
    count, for a folder that already holds such a set, and where the disk refuses.
    """
    _refuse_unfit(root, {"references": references, "good": good, "defects_per_kind": defects_per_kind})
    plan: list[tuple[str, str | None]] = [
        ("train" if i < references else "test", None) for i in range(references + good)
    ]
    plan += [("test", kind) for kind in DEFECTS for _ in range(defects_per_kind)]
    numbers: dict[Path, int] = {}
    try:
        for index, (split, kind) in enumerate(plan):
            part = product.draw(index, kind)
            folder = root / split / part.label
            name = f"{numbers.setdefault(folder, 0):03d}"
            numbers[folder] += 1
            _write_png(folder / f"{name}.png", cv2.cvtColor(part.image, cv2.COLOR_RGB2BGR))
            if kind is not None:
                mask = part.mask.astype(np.uint8) * np.uint8(255)
                _write_png(root / "ground_truth" / kind / f"{name}_mask.png", mask)
            if progress is not None:
                progress(index + 1, len(plan))
    except OSError as error:
        raise ConfigError(
            f"simulated data set: expected a folder to write to, {error}; choose another folder or free space"
        ) from error
    return len(plan)


def _refuse_unfit(root: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if count < 0:
            raise ConfigError(f"simulated data set: expected {name} of 0 or more, found {count}")
    for part in ("train", "test", "ground_truth"):
        if (root / part).exists():
            # Two sets in one folder would leave stale pictures among the new ones.
            raise ConfigError(
                f"simulated data set: expected a folder without a data set, found {root / part}; "
                "remove it or choose another folder"
            )


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    # Encoded in memory: cv2.imwrite reports a full disk only as False, and not where.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
