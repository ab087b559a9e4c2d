"""One synthetic defect: where it is, what it is made of, and how it is laid over a good frame (CPR spec, 7.2).

mask     Perlin blobs, or (ours) strokes, spots and large areas, cut down to what touches the part
source   foreign texture, or "structural": the frame itself, distorted and its cells shuffled; (ours) one even colour
blend    one opacity for the whole defect, outside the mask the frame is untouched

Or (ours) a piece of the part is missing (``missing.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from calibration.synthetic.extended import PASTED, REAL, Patch, paste_defects, patches_of
from calibration.synthetic.missing import take_piece
from calibration.synthetic.operations import ALL, distort
from calibration.synthetic.perlin import LEAST_AREA, MOST_DRAWS, ON_PART, keep_on_part, perlin_mask
from calibration.synthetic.placed import place_defect
from calibration.synthetic.shapes import area_mask, spot_mask, stroke_mask
from calibration.synthetic.textures import TextureSource, as_rgb, texture_source
from runtime.detector import MaskedFrame
from runtime.errors import ConfigError
from runtime.frame import Frame

Rng = np.random.Generator
#: Structural defects: the frame is cut into CELLS x CELLS.
CELLS = 16
#: Pixels below which a stroke or spot is no defect; Perlin blobs must be larger (``LEAST_AREA``).
LEAST_PX = 12
#: An even colour lies between these percentiles of the frame's levels, or so many levels beyond them.
EVEN_PERCENTILES = (1, 99)
EVEN_BEYOND = 20.0
_MASKS = {"perlin": perlin_mask, "stroke": stroke_mask, "spot": spot_mask, "area": area_mask}


@dataclass(frozen=True, kw_only=True)
class DefectRecipe:
    """How defects are drawn; the defaults are the CPR paper's for parts with a background. Shares are 0..1.

    ``clean``: share of frames left as they are. ``missing``: share of the others from which a piece of the part is
    taken, where the part is known and there is background; no other defect is drawn then. ``structural``: share of
    defects made of the frame itself. ``strokes``, ``spots``, ``areas``: share of masks that are not Perlin blobs.
    ``even``: share of areas of one colour. ``opacity``: range of the blend. ``cells``: a structural defect's frame is
    cut into cells x cells. Where there are real defects, ``real``: share of frames that one of them stands in for;
    ``pasted``: share of frames they are pasted into; ``placed``: one of them, on the part (PRN's way), not up to five
    anywhere (CPR's).
    """

    clean: float = 0.1
    missing: float = 0.0
    structural: float = 0.5
    strokes: float = 0.0
    spots: float = 0.0
    areas: float = 0.0
    even: float = 0.0
    opacity: tuple[float, float] = (0.5, 1.0)
    cells: int = CELLS
    real: float = REAL
    pasted: float = PASTED
    placed: bool = False


#: Ready-made: the paper's for parts and for surfaces; ours, with fainter, thinner and smaller defects among them, and
#: with large areas, too, so that what learns from them knows the inside of a large defect as well as its rim, and of
#: parts with missing pieces.
DEFECT_RECIPES = {
    "paper": DefectRecipe(),
    "paper-texture": DefectRecipe(structural=0.0),
    "varied": DefectRecipe(strokes=0.25, spots=0.25, opacity=(0.3, 1.0)),
    "varied-areas": DefectRecipe(missing=0.5, strokes=0.25, spots=0.25, areas=0.25, even=0.5, opacity=(0.3, 1.0)),
}


@dataclass(frozen=True)
class PlantedDefect:
    """A frame uint8 RGB [H, W, 3] with a defect and its mask, bool [H, W]; no True: the frame was left clean.

    ``kind``: ``clean``, or mask and source, such as ``perlin texture``, or ``missing piece``.
    """

    image: np.ndarray
    mask: np.ndarray
    kind: str


class SyntheticDefects:
    """Synthetic defects for one product: made of the references, of the user's textures, or of built-in ones.

    ``seed`` fixes everything: ``draw(image, 7)`` is the same defect whatever was drawn before, in any thread.
    """

    def __init__(
        self,
        references: Sequence[Frame],
        *,
        textures: Sequence[Frame] = (),
        defects: Sequence[MaskedFrame] = (),
        recipe: DefectRecipe | None = None,
        seed: int = 0,
    ) -> None:
        if not len(references):
            raise ConfigError("synthetic defects: expected at least one good frame, found none")
        self.recipe = recipe or DefectRecipe()
        self.seed = seed
        self._source = texture_source(references, textures)
        self._defects = defects
        self._patches: dict[tuple[int, ...], list[Patch]] = {}
        self._lock = Lock()

    def draw(self, image: np.ndarray, *number: int, foreground: np.ndarray | None = None) -> PlantedDefect:
        """Return ``image``, uint8 [H, W] or RGB [H, W, 3], with defect ``number`` (one integer >= 0 or several).

        ``foreground`` float32 [H, W], 0..1: where the part is; None: everywhere. A defect on a grey image is grey. With
        real ``defects`` one of them is returned now and then as it is, at the image's size, and others are pasted in
        (section 7.8).
        """
        rng = np.random.default_rng([self.seed, *number])
        planted = plant_defect(image, rng, self.recipe, self._source, foreground)
        if not len(self._defects):
            return planted
        patches = self._patches_at(planted.mask.shape)
        if rng.random() < self.recipe.real:
            chosen = patches[int(rng.integers(len(patches)))]
            planted = PlantedDefect(chosen.image, chosen.mask > 0, "real")
        if rng.random() < self.recipe.pasted:
            planted = self._pasted(planted, patches, rng, foreground)
        return planted

    def _pasted(
        self, planted: PlantedDefect, patches: list[Patch], rng: Rng, foreground: np.ndarray | None
    ) -> PlantedDefect:
        if not self.recipe.placed:
            pasted = paste_defects(planted.image, planted.mask, patches, rng)
            return PlantedDefect(*pasted, f"{planted.kind}, pasted")
        image, mask = place_defect(planted.image, patches, rng, foreground)
        return PlantedDefect(image, mask | planted.mask, f"{planted.kind}, placed")

    def _patches_at(self, size: tuple[int, ...]) -> list[Patch]:
        with self._lock:
            if size not in self._patches:
                self._patches = {size: patches_of(self._defects, (size[0], size[1]))}
            return self._patches[size]


def plant_defect(
    image: np.ndarray, rng: Rng, recipe: DefectRecipe, source: TextureSource, foreground: np.ndarray | None = None
) -> PlantedDefect:
    """Draw one defect into a copy of ``image``; see ``SyntheticDefects.draw``."""
    rgb = as_rgb(image)
    if rng.random() < recipe.clean:
        return PlantedDefect(rgb.copy(), np.zeros(rgb.shape[:2], bool), "clean")
    if foreground is not None and recipe.missing and rng.random() < recipe.missing:
        taken = take_piece(rgb, foreground, rng)
        if taken is not None:
            return PlantedDefect(*taken, "missing piece")
    kind, mask = draw_mask(rgb.shape[:2], rng, recipe, foreground)
    made_of, material = draw_material(rgb, kind, rng, recipe, source)
    # A grey camera sees no colour: with it every defect would be told by that alone.
    if _is_grey(rgb):
        material = np.repeat(material.mean(axis=2, keepdims=True), 3, axis=2)
    opacity = float(rng.uniform(*recipe.opacity))
    blended = opacity * material[mask].astype(np.float32) + (1.0 - opacity) * rgb[mask].astype(np.float32)
    damaged = rgb.copy()
    damaged[mask] = blended.astype(np.uint8)
    return PlantedDefect(damaged, mask, f"{kind} {made_of}")


def draw_mask(
    shape: tuple[int, int], rng: Rng, recipe: DefectRecipe, foreground: np.ndarray | None = None
) -> tuple[str, np.ndarray]:
    """Return (kind, mask bool [H, W]), drawn again until something of it is left on the part.

    Raises ``ConfigError`` when nothing ever is: the foreground map is then no map of a part.
    """
    for _ in range(MOST_DRAWS):
        draw = rng.random()
        upto = np.cumsum((recipe.strokes, recipe.spots, recipe.areas))
        kind = ("stroke", "spot", "area", "perlin")[int(np.searchsorted(upto, draw, side="right"))]
        least = LEAST_AREA * shape[0] * shape[1] if kind == "perlin" else LEAST_PX
        mask = keep_on_part(_MASKS[kind](shape, rng), foreground, least)
        if mask.any():
            return kind, mask
    part = 1.0 if foreground is None else float((foreground > ON_PART).mean())
    raise ConfigError(
        f"synthetic defects: expected room for a defect on the part, found none in {MOST_DRAWS} draws on {shape[1]} x "
        f"{shape[0]} px of which {part:.1%} are part: turn the foreground off, or use larger frames"
    )


def draw_material(
    rgb: np.ndarray, kind: str, rng: Rng, recipe: DefectRecipe, source: TextureSource
) -> tuple[str, np.ndarray]:
    """Return what a defect of a mask's ``kind`` is made of: its name, and uint8 RGB [H, W, 3]."""
    structural = rng.random() < recipe.structural
    if kind == "area" and rng.random() < recipe.even:
        low, high = np.percentile(rgb, EVEN_PERCENTILES, axis=(0, 1))
        colour = np.clip(rng.uniform(low - EVEN_BEYOND, high + EVEN_BEYOND), 0, 255).astype(np.uint8)
        return "even", np.broadcast_to(colour, rgb.shape)
    if structural:
        return "structural", structural_source(rgb, rng, recipe.cells)
    return "texture", _fitted(source, rgb, rng)


def structural_source(image: np.ndarray, rng: Rng, cells: int = CELLS) -> np.ndarray:
    """Return uint8 RGB [H, W, 3]: the frame through three operations, its ``cells`` x ``cells`` cells shuffled."""
    import cv2

    height, width = image.shape[:2]
    # Cells of one size, at least a pixel: a frame that does not divide is brought to the next size that does, and back.
    tall, wide = (-(-length // cells) for length in (height, width))
    whole = distort(image, rng, ALL)
    even = whole.shape[:2] == (tall * cells, wide * cells)
    grid = whole if even else cv2.resize(whole, (wide * cells, tall * cells), interpolation=cv2.INTER_LINEAR)
    cut = grid.reshape(cells, tall, cells, wide, 3).swapaxes(1, 2).reshape(cells * cells, tall, wide, 3)
    shuffled = cut[rng.permutation(cells * cells)].reshape(cells, cells, tall, wide, 3).swapaxes(1, 2)
    result = np.ascontiguousarray(shuffled.reshape(tall * cells, wide * cells, 3))
    return result if even else np.asarray(cv2.resize(result, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _fitted(source: TextureSource, rgb: np.ndarray, rng: Rng) -> np.ndarray:
    height, width = rgb.shape[:2]
    return source(max(height, width), rng)[:height, :width]


def _is_grey(rgb: np.ndarray) -> bool:
    return bool((rgb[:, :, 0] == rgb[:, :, 1]).all() and (rgb[:, :, 1] == rgb[:, :, 2]).all())
