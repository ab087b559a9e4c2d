"""The pictures of a training: good frames, real, extended and simulated defects (specification, section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgead import Frame, MaskedFrame, SyntheticDefects
from plugins.prn.features import resized
from plugins.prn.plan import items_of

if TYPE_CHECKING:
    from edgead import DefectRecipe, DetectorContext

#: First number of the pictures that only examinations draw.
EXAMINED = 1 << 40
#: Share of the pictures for real defects that show one as it is; the others have one pasted into a good frame.
DIRECT = 0.5
#: Numbers of the draws that choose a picture's source, and an epoch's order, beside those that damage it.
_CHOOSE, _SHUFFLE = 1, 2
#: Textures are turned by up to this many degrees either way.
_TURN_DEG = 90.0


@dataclass(frozen=True)
class Picture:
    """One training picture: uint8 RGB [S, S, 3], and which pixels are defective, bool [S, S].

    ``kind``: what was planted there. ``source``: the reference it was made of.
    """

    image: np.ndarray
    mask: np.ndarray
    kind: str
    source: int


class Pictures:
    """Draws pictures: ``draw(7)`` is the same one whenever it is asked for, in any thread.

    ``images``: all references at the working size; ``usable``: numbers of those that may be learnt from;
    ``foregrounds`` bool [N, S, S] of all, or None. ``turned``: share of good frames turned before they are damaged.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        usable: Sequence[int],
        foregrounds: np.ndarray | None,
        recipe: DefectRecipe,
        context: DetectorContext,
        *,
        turned: float = 0.0,
    ) -> None:
        self.images, self.usable, self.turned = images, usable, turned
        self._foregrounds, self._seed = foregrounds, context.seed
        frames = [Frame(images[number], f"reference {number}") for number in usable]
        defects = [_resized(each, images[0].shape[0]) for each in context.defects]
        self._has_real = len(defects) > 0
        self._simulated = _defects(frames, recipe, context)
        self._real = _defects(frames, replace(recipe, clean=1.0, real=1.0, pasted=0.0), context, defects)
        self._extended = _defects(
            frames, replace(recipe, clean=1.0, real=0.0, pasted=1.0, placed=True), context, defects
        )

    def draw(self, number: int) -> Picture:
        """Return picture ``number``: those of one epoch in a shuffled order, then those of the next."""
        good, real, simulated = items_of(len(self.usable))
        epoch, at = divmod(number, good + real + simulated)
        # Shuffled, or a pool that holds less than an epoch would be of one kind.
        place = int(np.random.default_rng([self._seed, epoch, _SHUFFLE]).permutation(good + real + simulated)[at])
        if place < good:
            return self.clean(self.usable[place])
        rng = np.random.default_rng([self._seed, number, _CHOOSE])
        source = self.usable[int(rng.integers(good))]
        if place < good + real and self._has_real:
            defects = self._real if rng.random() < DIRECT else self._extended
            return self._damaged(defects, self.images[source], source, number)
        image = self.images[source]
        if rng.random() < self.turned:
            image = turned(image, float(rng.uniform(-_TURN_DEG, _TURN_DEG)))
        return self._damaged(self._simulated, image, source, number)

    def clean(self, source: int) -> Picture:
        """Return reference ``source`` as it is."""
        image = self.images[source]
        return Picture(rgb(image), np.zeros(image.shape[:2], bool), "clean", source)

    def examined(self, source: int, number: int) -> Picture:
        """Return reference ``source`` with a defect that training never draws; every second one real, if there are."""
        defects = self._extended if self._has_real and number % 2 else self._simulated
        return self._damaged(defects, self.images[source], source, EXAMINED + number)

    def _damaged(self, defects: SyntheticDefects, image: np.ndarray, source: int, number: int) -> Picture:
        part = None if self._foregrounds is None else self._foregrounds[source].astype(np.float32)
        planted = defects.draw(image, number, foreground=part)
        return Picture(planted.image, planted.mask, planted.kind, source)


def _resized(defect: MaskedFrame, size: int) -> MaskedFrame:
    """Bring a real defect's image to the working size as good frames are: told by its pixels, not by how it was read.

    Its mask is still of the size it came in.
    """
    image = resized(defect.frame.image, size)
    return MaskedFrame(replace(defect.frame, image=image), defect.mask)


def _defects(
    frames: Sequence[Frame], recipe: DefectRecipe, context: DetectorContext, real: Sequence[MaskedFrame] = ()
) -> SyntheticDefects:
    return SyntheticDefects(frames, textures=context.textures, defects=real, recipe=recipe, seed=context.seed)


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turn a picture uint8 [S, S] or RGB about its middle; what comes in from outside is its mirror image."""
    import cv2

    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    flags = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
    return np.asarray(cv2.warpAffine(image, turn, (width, height), **flags), np.uint8)


def rgb(image: np.ndarray) -> np.ndarray:
    """Return uint8 RGB [S, S, 3] of it, or of a grey picture [S, S]."""
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)  # noqa: PLR2004 - [H, W] is grey
