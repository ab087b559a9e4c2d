"""Training pictures, encoded once each: the frozen backbone runs once for a picture, not once for a step.

A picture of the pool is a good frame, perhaps with a synthetic defect, augmented; its reference is one of the frames
most like it, augmented too. Their backbone maps are kept in half precision, and steps draw windows and pixels from
them: what varies between two uses of a picture is where it is looked at, not its noise. When a pool has been used as
often as its plan says, the next one is made, whose pictures threads have drawn meanwhile; every picture follows from
(seed, its number) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from plugins.cpr.augment import augmented
from plugins.cpr.pairs import guarded_mask, sampling_weights
from plugins.training.ahead import Ahead

if TYPE_CHECKING:
    from edgead import DetectorContext, Frame, SyntheticDefects
    from plugins.cpr.graph import Features
    from plugins.cpr.learning import Prepared

#: Pictures that go through the backbone together.
BATCH = 16
#: Number of the draws that augment a picture, beside those that damage it.
_AUGMENT = 1


@dataclass(frozen=True)
class Picture:
    """One training picture and its references: uint8 RGB [S, S, 3] each, and what pairs are drawn by.

    ``references``: (number, picture); the number is that of a reference as it came, -1 of one that was augmented.
    ``weights`` float16 [S, S], or None (all pixels alike). ``mask`` bool [S, S]; ``kind``: what was planted there.
    """

    image: np.ndarray
    mask: np.ndarray
    kind: str
    weights: np.ndarray | None
    references: tuple[tuple[int, np.ndarray], ...]


@dataclass(frozen=True)
class Pool:
    """Encoded pictures. ``maps``: per layer float16 [rows, H, W, C] on the device; pictures first, then references.

    ``references`` int64 [pictures, R]: rows of each picture's references.
    """

    maps: tuple[Tensor, ...]
    references: np.ndarray
    masks: np.ndarray
    guarded: np.ndarray
    weights: np.ndarray | None

    def __len__(self) -> int:
        return len(self.masks)


class Pictures:
    """Draws pictures: ``draw(7)`` is the same one whenever it is asked for, in any thread.

    ``usable``: numbers of the frames that may be learnt from; ``compared``: references a picture comes with.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        usable: Sequence[int],
        prepared: Prepared,
        defects: SyntheticDefects,
        *,
        size: int,
        compared: int,
    ) -> None:
        self.frames, self.size, self.compared = frames, size, compared
        self._usable = np.asarray(usable)
        self._defects = defects
        self._foregrounds = prepared.foregrounds if prepared.is_object else None
        rankings = prepared.rankings.numpy()
        allowed = np.isin(rankings, self._usable)
        self._near = [row[kept] for row, kept in zip(rankings, allowed, strict=True)]

    def draw(self, number: int, *, vary: bool = True) -> Picture:
        """Return picture ``number``; ``vary``: augmented, as training wants it."""
        source = int(self._usable[number % len(self._usable)])
        return self.drawn_from(source, number, vary=vary)

    def drawn_from(self, source: int, number: int, *, vary: bool) -> Picture:
        """Return picture ``number`` made of frame ``source``."""
        rng = np.random.default_rng([self._defects.seed, number, _AUGMENT])
        near = rng.permutation(self.near(source))
        partners = [int(near[nth % near.size]) for nth in range(self.compared)]
        planted = self._defects.draw(self.resized(source), number, foreground=self.foreground(source))
        weights = None
        if self._foregrounds is not None:
            maps = self._foregrounds[[source, partners[0]]].numpy()
            weights = sampling_weights(maps[0], maps[1], self.size).astype(np.float16)
        image = augmented(planted.image, rng) if vary else planted.image
        references = [(partner, self.resized(partner)) for partner in partners]
        # The first only: the others as they came are encoded once for all pictures.
        varied = augmented(references[0][1], rng) if vary else references[0][1]
        if varied is not references[0][1]:
            references[0] = (-1, varied)
        return Picture(image, planted.mask, planted.kind, weights, tuple(references))

    def near(self, number: int) -> np.ndarray:
        """Return the frames a frame may be compared with, most like it first, int64 [n], n > 0."""
        # A product of so few frames that none of the near ones may be used takes any other.
        return self._near[number] if self._near[number].size else self._usable

    def resized(self, number: int) -> np.ndarray:
        """Return frame ``number``, uint8 RGB [S, S, 3], bilinear without antialiasing as the graph resizes it."""
        import cv2

        image = self.frames[number].image
        image = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)  # noqa: PLR2004 - grey
        return np.asarray(cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR), np.uint8)

    def foreground(self, number: int) -> np.ndarray | None:
        """Return where the part is in frame ``number``, float32 [S, S], 0..1; None: nothing is told apart."""
        import cv2

        if self._foregrounds is None:
            return None
        small = self._foregrounds[number].numpy()
        return np.asarray(cv2.resize(small, (self.size, self.size), interpolation=cv2.INTER_LINEAR))


class Pools:
    """Makes one pool after another, ``count`` pictures each, drawing the next one's while this one is used."""

    def __init__(self, pictures: Pictures, features: Features, count: int, context: DetectorContext) -> None:
        self._features, self._context = features, context
        self._ahead = Ahead(pictures.draw, count, context)

    def __enter__(self) -> Self:
        self._ahead.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ahead.__exit__(*raised)

    def make(self, number: int, *, last: bool) -> Pool:
        """Return pool ``number``; unless it is the ``last``, pictures of the next one are begun."""
        return encode_pool(self._ahead.pool(number, last=last), self._features, self._context.device)


def encode_pool(drawn: Iterator[Picture], features: Features, device: str) -> Pool:
    """Encode pictures and their references, each different one once."""
    encoder = _Encoder(features, device)
    rows, references, known = [], [], {}
    masks, weights = [], []
    for picture in drawn:
        rows.append(encoder.add(picture.image))
        for number, reference in picture.references:
            if number not in known or number < 0:
                known[number] = encoder.add(reference)
            references.append(known[number])
        masks.append(picture.mask)
        weights.append(picture.weights)
    maps = encoder.maps(first=rows)
    # Rows were handed out in the order pictures came; those of pictures are moved to the front.
    order = {row: place for place, row in enumerate([*rows, *sorted(set(references))])}
    return Pool(
        maps=maps,
        references=np.array([order[row] for row in references]).reshape(len(rows), -1),
        masks=np.stack(masks),
        guarded=np.stack([guarded_mask(mask) for mask in masks]),
        weights=None if weights[0] is None else np.stack([each for each in weights if each is not None]),
    )


def encode_images(images: Sequence[np.ndarray], features: Features, device: str) -> tuple[Tensor, ...]:
    """Return per layer float16 [n, H, W, C] of pictures uint8 RGB [S, S, 3]."""
    encoder = _Encoder(features, device)
    return encoder.maps(first=[encoder.add(image) for image in images])


class _Encoder:
    """Sends pictures through the backbone, ``BATCH`` at a time, in the order they come."""

    def __init__(self, features: Features, device: str) -> None:
        self._features, self._device = features, device
        self._waiting: list[np.ndarray] = []
        self._done: list[tuple[Tensor, ...]] = []
        self._count = 0

    def add(self, image: np.ndarray) -> int:
        """Take a picture in; return its row."""
        self._waiting.append(image)
        self._count += 1
        if len(self._waiting) == BATCH:
            self._flush()
        return self._count - 1

    def maps(self, *, first: Sequence[int]) -> tuple[Tensor, ...]:
        """Return per layer float16 [rows, H, W, C], rows ``first`` in front, the others after them in their order."""
        self._flush()
        rest = sorted(set(range(self._count)) - set(first))
        order = torch.tensor([*first, *rest], device=self._device)
        return tuple(torch.cat(batches)[order] for batches in zip(*self._done, strict=True))

    def _flush(self) -> None:
        if not self._waiting:
            return
        planes = torch.from_numpy(np.stack(self._waiting)).to(self._device).permute(0, 3, 1, 2).to(torch.float32)
        with torch.no_grad():
            taps = self._features(planes)
        self._done.append(tuple(tap.permute(0, 2, 3, 1).to(torch.float16).contiguous() for tap in taps))
        self._waiting.clear()
