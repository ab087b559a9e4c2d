"""The images a detector is checked with: parts of the simulated product, drawn once into a folder."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from calibration.dataset import references_from
from calibration.references import References
from runtime.images import write_png
from runtime.testing.product import SimulatedProduct

#: Frames are no squares, so that height and width cannot be taken for each other unnoticed.
HEIGHT, WIDTH = 128, 160
#: Good parts in a template: more than the smallest ring of neighbours a detector may ask for.
REFERENCES = 8
#: Sizes no network divides, one of them upright, one small, one large.
ODD_SIZES = ((97, 131), (131, 97), (45, 61), (301, 203))


class Pictures:
    """Images below ``folder``; each set is written when it is asked for first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._product = SimulatedProduct(seed=0, size=(HEIGHT, WIDTH))

    def part(self, number: int) -> np.ndarray:
        """Return good part ``number``, uint8 RGB [HEIGHT, WIDTH, 3]."""
        return self._product.draw(number).image

    def sized(self, number: int, shape: tuple[int, int]) -> np.ndarray:
        """Return a good part as uint8 RGB [height, width, 3] of another size."""
        import cv2

        resized = cv2.resize(self.part(number), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(resized)

    @cached_property
    def good(self) -> References:
        """The references of the template that most promises are checked with."""
        return self._written("good", [self.part(number) for number in range(REFERENCES)])

    @cached_property
    def others(self) -> References:
        """As many other good parts: another version of the template."""
        return self._written("others", [self.part(20 + number) for number in range(REFERENCES)])

    @cached_property
    def new(self) -> References:
        """Two good parts to insert later."""
        return self._written("new", [self.part(number) for number in (40, 41)])

    @cached_property
    def grey(self) -> References:
        """The references as grey files."""
        return self._written("grey", [in_grey(self.part(number)) for number in range(REFERENCES)])

    @cached_property
    def mixed(self) -> References:
        """The references at sizes of their own."""
        images = [self.sized(number, ODD_SIZES[number % len(ODD_SIZES)]) for number in range(REFERENCES)]
        return self._written("mixed", images)

    @cached_property
    def constant(self) -> References:
        """References without any structure: every pixel of every one the same grey."""
        return self._written("constant", [np.full((HEIGHT, WIDTH, 3), 128, np.uint8)] * REFERENCES)

    @cached_property
    def damaged(self) -> References:
        """The references, the middle one of which is a file cut short."""
        folder = self.folder / "damaged"
        self._written("damaged", [self.part(number) for number in range(REFERENCES)])
        file = folder / f"{REFERENCES // 2}.png"
        file.write_bytes(file.read_bytes()[:200])
        return References(references_from(folder))

    def _written(self, name: str, images: list[np.ndarray]) -> References:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            write_png(folder / f"{number}.png", image)
        return References(references_from(folder))


def in_grey(image: np.ndarray) -> np.ndarray:
    """Return an RGB image as grey, uint8 [H, W]: the mean of its channels."""
    return np.ascontiguousarray(image.mean(axis=2).round().astype(np.uint8))
