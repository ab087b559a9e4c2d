"""Synthetic defects: where they lie, what stays untouched, and that a seed says everything."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from calibration.synthetic.defects import (
    DEFECT_RECIPES,
    LEAST_PX,
    DefectRecipe,
    SyntheticDefects,
    draw_mask,
    structural_source,
)
from calibration.synthetic.procedural import FIELDS, draw_texture
from calibration.synthetic.textures import FolderTextures, MixedTextures, ReferenceTextures
from runtime.errors import ConfigError
from runtime.frame import Frame

SIDE = 160


@pytest.fixture(scope="module")
def frames():
    """Return three colour frames with smooth structure, none of the palette extremes."""
    rng = np.random.default_rng(0)
    grain = [cv2.GaussianBlur(rng.integers(60, 200, (SIDE, SIDE, 3), dtype=np.uint8), (9, 9), 2) for _ in range(3)]
    return [Frame(image, f"good/{number}") for number, image in enumerate(grain)]


def components(mask):
    """Return the pixels of every 8-connected component."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [labels == number for number in range(1, count)]


@pytest.mark.parametrize("recipe", DEFECT_RECIPES.values(), ids=DEFECT_RECIPES)
def test_outside_the_mask_the_frame_is_untouched(recipe, frames):
    """T34: no pixel outside the mask changes; inside most do; the frame handed in stays as it was."""
    defects, image = SyntheticDefects(frames, recipe=recipe), frames[0].image
    before, changed = image.copy(), []
    for number in range(30):
        planted = defects.draw(image, number)
        np.testing.assert_array_equal(planted.image[~planted.mask], image[~planted.mask])
        assert planted.mask.any() == (planted.kind != "clean")
        if planted.mask.any():
            changed.append((planted.image != image).any(axis=2)[planted.mask].mean())
    np.testing.assert_array_equal(image, before)
    assert np.median(changed) > 0.9


def test_every_component_is_large_enough_and_on_the_part(frames):
    """T34: Perlin components have at least a thousandth of the frame and touch foreground above one half."""
    foreground = np.zeros((SIDE, SIDE), np.float32)
    foreground[40:120, 40:120] = 1.0
    defects = SyntheticDefects(frames, recipe=DefectRecipe(clean=0.0))
    for number in range(30):
        mask = defects.draw(frames[1].image, number, foreground=foreground).mask
        assert mask.any()
        for component in components(mask):
            assert component.sum() >= 0.001 * SIDE**2
            assert (foreground[component] > 0.5).any()


def test_strokes_and_spots_are_drawn_as_often_as_asked():
    """Shares of mask kinds follow the recipe, and strokes are thin."""
    recipe, rng = DefectRecipe(strokes=0.3, spots=0.3), np.random.default_rng(1)
    drawn = [draw_mask((SIDE, SIDE), rng, recipe) for _ in range(300)]
    kinds = [kind for kind, _ in drawn]
    assert {kind: 60 < kinds.count(kind) < 160 for kind in ("stroke", "spot", "perlin")} == dict.fromkeys(
        ("stroke", "spot", "perlin"), True
    )
    assert min(mask.sum() for _, mask in drawn) >= LEAST_PX
    strokes = [cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3).max() for k, mask in drawn if k == "stroke"]
    assert np.median(strokes) <= 3


def test_areas_are_large_whole_and_as_often_as_asked():
    """An area is one piece that covers between a twentieth and half of the frame, at places that differ."""
    recipe, rng = DefectRecipe(strokes=0.2, spots=0.2, areas=0.4), np.random.default_rng(2)
    drawn = [draw_mask((SIDE, SIDE), rng, recipe) for _ in range(200)]
    areas = [mask for kind, mask in drawn if kind == "area"]
    assert 55 < len(areas) < 105
    for mask in areas:
        assert 0.04 < mask.mean() < 0.52
        assert max(each.sum() for each in components(mask)) > 0.7 * mask.sum()
    covered = np.mean(areas, axis=0)
    assert covered.min() > 0.05
    assert covered.max() < 0.6


def test_an_even_area_is_of_one_colour(frames):
    """Opaque even areas hold one colour near the frame's own range, and areas alone are ever even."""
    recipe = DefectRecipe(clean=0.0, strokes=0.5, areas=0.5, even=1.0, opacity=(1.0, 1.0))
    defects, image = SyntheticDefects(frames, recipe=recipe, seed=1), frames[0].image
    drawn = [defects.draw(image, number) for number in range(20)]
    assert {each.kind.split()[0] for each in drawn if "even" in each.kind} == {"area"}
    for each in drawn:
        assert ("even" in each.kind) == each.kind.startswith("area")
        if "even" in each.kind:
            assert np.unique(each.image[each.mask], axis=0).shape == (1, 3)
            assert image.min() - 21 <= each.image[each.mask].min() <= each.image[each.mask].max() <= image.max() + 21


def test_no_area_is_drawn_where_a_recipe_has_none(frames):
    """``varied`` knows three kinds of masks; ``varied-areas`` is the same with areas among them and missing pieces."""
    defects = SyntheticDefects(frames, recipe=DEFECT_RECIPES["varied"], seed=3)
    kinds = {defects.draw(frames[0].image, number).kind.split()[0] for number in range(40)}
    assert kinds == {"clean", "perlin", "spot", "stroke"}
    assert replace(DEFECT_RECIPES["varied-areas"], missing=0.0, areas=0.0, even=0.0) == DEFECT_RECIPES["varied"]


@pytest.mark.parametrize("name", ["varied", "varied-areas"])
def test_a_seed_says_everything_whatever_the_order(frames, name):
    """Defect 7 is the same drawn first, last, by another object, or by eight threads; another seed gives another."""
    recipe = DEFECT_RECIPES[name]
    one, other = (SyntheticDefects(frames, recipe=recipe, seed=3) for _ in range(2))
    first = [one.draw(frames[0].image, number) for number in range(12)]
    with ThreadPoolExecutor(8) as threads:
        again = list(threads.map(lambda number: other.draw(frames[0].image, number), reversed(range(12))))[::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)
    different = SyntheticDefects(frames, recipe=recipe, seed=4).draw(frames[0].image, 7)
    assert (different.mask != first[7].mask).any()


def test_clean_frames_come_as_often_as_asked(frames):
    """One in ten by default, every one at 1, none at 0."""
    for clean, low, high in ((0.1, 5, 40), (1.0, 200, 200), (0.0, 0, 0)):
        defects = SyntheticDefects(frames, recipe=DefectRecipe(clean=clean))
        count = sum(defects.draw(frames[0].image, number).kind == "clean" for number in range(200))
        assert low <= count <= high


def test_a_grey_frame_gets_grey_defects(frames):
    """A grey [H, W] frame comes back as three equal channels, defect included: no camera sees colour in it."""
    grey = np.ascontiguousarray(frames[0].image[:, :, 0])
    defects = SyntheticDefects([Frame(grey, "grey")], recipe=DefectRecipe(clean=0.0))
    for number in range(10):
        image = defects.draw(grey, number).image
        assert image.shape == (SIDE, SIDE, 3)
        assert (image == image[:, :, :1]).all()


def test_a_structural_defect_is_made_of_shuffled_cells():
    """The cells of the frame are all there, each in some place: a picture of 256 levels keeps its histogram."""
    levels = np.repeat(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16), 10, 0), 10, 1)
    image = np.repeat(levels[:, :, None], 3, axis=2)

    class Untouched:
        """A generator whose operations are all "posterise to 8 bits"."""

        def __init__(self):
            self.rng = np.random.default_rng(0)

        def choice(self, *_, **__):
            return np.array([5, 5, 5])

        def integers(self, *_):
            return 8

        def permutation(self, count):
            return self.rng.permutation(count)

    shuffled = structural_source(image, Untouched())
    assert (shuffled != image).any()
    np.testing.assert_array_equal(np.bincount(shuffled.ravel()), np.bincount(image.ravel()))
    blocks = shuffled[:, :, 0].reshape(16, 10, 16, 10).swapaxes(1, 2).reshape(256, 100)
    assert (blocks == blocks[:, :1]).all()


@pytest.mark.parametrize("shape", [(160, 160), (150, 201), (33, 47), (8, 8)])
def test_structural_sources_have_the_frames_size(shape):
    """Sizes that the 16 x 16 cells do not divide, and smaller ones, work too."""
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert structural_source(image, np.random.default_rng(2)).shape == image.shape


def test_no_room_on_the_part_is_an_error():
    """A foreground without a part says so instead of drawing for ever."""
    with pytest.raises(ConfigError, match=r"0\.0% are part: turn the foreground off"):
        draw_mask((SIDE, SIDE), np.random.default_rng(0), DefectRecipe(), np.zeros((SIDE, SIDE), np.float32))


def test_no_references_is_an_error():
    """There is nothing to plant defects into."""
    with pytest.raises(ConfigError, match="at least one good frame"):
        SyntheticDefects([])


def test_textures_of_a_folder_are_used_and_nothing_else(frames):
    """With a texture folder at full opacity, a texture defect is made of the folder's one colour."""
    green = Frame(np.full((40, 60, 3), (0, 255, 0), np.uint8), "green")
    recipe = DefectRecipe(clean=0.0, structural=0.0, opacity=(1.0, 1.0))
    planted = SyntheticDefects(frames, textures=[green], recipe=recipe).draw(frames[0].image, 5)
    assert (planted.image[planted.mask] == (0, 255, 0)).all()


def test_opacity_lies_in_its_range(frames):
    """Over a black frame a white texture shows the opacity itself: 0.3 .. 0.6 of 255."""
    white = Frame(np.full((40, 40, 3), 255, np.uint8), "white")
    recipe = replace(DefectRecipe(), clean=0.0, structural=0.0, opacity=(0.3, 0.6))
    defects, black = SyntheticDefects(frames, textures=[white], recipe=recipe), np.zeros((SIDE, SIDE, 3), np.uint8)
    levels = [defects.draw(black, number) for number in range(20)]
    shown = [float(each.image[each.mask].max()) / 255 for each in levels]
    assert min(shown) >= 0.29
    assert max(shown) <= 0.6
    assert max(shown) - min(shown) > 0.1


@pytest.mark.parametrize("field", FIELDS, ids=lambda each: each.__name__)
def test_procedural_fields_are_finite_and_repeatable(field):
    """Every built-in field fills its square, with the same numbers for the same seed."""
    first, again = (field(96, np.random.default_rng(7)) for _ in range(2))
    assert first.shape == (96, 96)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)


def test_built_in_textures_differ_from_each_other():
    """Forty draws give forty pictures of different colour or structure."""
    means = {tuple(draw_texture(64, np.random.default_rng(seed)).mean(axis=(0, 1)).round(2)) for seed in range(40)}
    assert len(means) == 40


def test_texture_sources_give_whole_squares(frames):
    """A folder, the references and a mix give uint8 RGB of the side asked for."""
    rng = np.random.default_rng(8)
    sources = (FolderTextures(frames), ReferenceTextures(frames))
    for source in (*sources, MixedTextures(sources)):
        texture = source(96, rng)
        assert (texture.shape, texture.dtype) == ((96, 96, 3), np.uint8)
