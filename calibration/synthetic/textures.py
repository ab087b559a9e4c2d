"""Where the foreign material of a synthetic defect comes from: a folder, the references themselves, or from nothing.

A source is asked for a picture uint8 RGB [side, side, 3] and draws it from the generator handed in; it keeps a bounded
number of decoded files and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np

from calibration.synthetic.operations import ALL, distort
from calibration.synthetic.procedural import draw_texture
from runtime.frame import Frame

Rng = np.random.Generator
TextureSource = Callable[[int, Rng], np.ndarray]
#: Decoded pictures kept, at most: about 80 MB at a side of 320.
MOST_KEPT = 256
#: Share of a reference's area a crop takes.
CROP_AREA = (0.3, 1.0)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return uint8 [H, W, 3] of a grey [H, W] or colour [H, W, 3] image; grey is repeated."""
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)  # noqa: PLR2004 - [H, W] is grey


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """Resize uint8 RGB to [side, side, 3], bilinear without antialiasing, as the detectors of this family do."""
    import cv2

    return np.asarray(cv2.resize(as_rgb(image), (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


class Kept:
    """Frames of a sequence at one side, the last ``MOST_KEPT`` used of them decoded; safe for several threads."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = Lock()

    def at(self, index: int, side: int) -> np.ndarray:
        """Return frame ``index``, uint8 RGB [side, side, 3]; not to be written to."""
        key = (index, side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = resized(self.frames[index].image, side)
        with self._lock:
            self._kept[key] = image
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return image


class FolderTextures:
    """Whole pictures of a sequence of frames, at random."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._kept = Kept(frames)

    def __call__(self, side: int, rng: Rng) -> np.ndarray:
        """Return one picture, resized and otherwise as it is."""
        return self._kept.at(int(rng.integers(len(self._kept.frames))), side)


class ReferenceTextures:
    """Crops of the references, distorted by three operations and turned: their own material, gone wrong."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._kept = Kept(frames)

    def __call__(self, side: int, rng: Rng) -> np.ndarray:
        """Return a crop of 30 to 100 % of a reference's area, three operations, a turn by quarters, at full size."""
        image = self._kept.at(int(rng.integers(len(self._kept.frames))), side)
        extent = max(1, round(side * float(np.sqrt(rng.uniform(*CROP_AREA)))))
        top, left = rng.integers(0, side - extent + 1, 2)
        crop = distort(np.ascontiguousarray(image[top : top + extent, left : left + extent]), rng, ALL)
        return resized(np.ascontiguousarray(np.rot90(crop, int(rng.integers(4)))), side)


class MixedTextures:
    """One of several sources each time, evenly."""

    def __init__(self, sources: Sequence[TextureSource]) -> None:
        self._sources = tuple(sources)

    def __call__(self, side: int, rng: Rng) -> np.ndarray:
        """Return what one of the sources draws."""
        return self._sources[int(rng.integers(len(self._sources)))](side, rng)


def texture_source(references: Sequence[Frame], textures: Sequence[Frame]) -> TextureSource:
    """Return the source for a product: the user's pictures where there are any, else built-in ones and the references.

    Without pictures the mix is even, as section 7.2 advises.
    """
    if len(textures):
        return FolderTextures(textures)
    return MixedTextures((draw_texture, ReferenceTextures(references)))
