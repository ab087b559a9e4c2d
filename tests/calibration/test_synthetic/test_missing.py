"""Missing pieces: they lie at the part's edge, show background, and are drawn where a recipe asks for them."""

import cv2
import numpy as np
import pytest

from calibration.synthetic import missing
from calibration.synthetic.defects import DefectRecipe, SyntheticDefects
from calibration.synthetic.missing import GROUND, LEAST_AREA, MOSTLY, take_piece
from runtime.frame import Frame

SIDE = 160


def disc(height=SIDE, width=SIDE, radius=0.35):
    """Return (a bright disc on a dark ground, uint8 RGB, and its foreground)."""
    rng = np.random.default_rng(0)
    image = rng.integers(20, 60, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (width // 2, height // 2), round(radius * min(height, width)), 1, -1)
    image[mask > 0] += 150
    return image, cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1)


def test_a_piece_is_replaced_by_background_at_the_edge():
    """Nothing else changes; nearly all of it comes from the ground; it reaches the part's edge; sizes vary."""
    image, foreground = disc()
    before, sizes = image.copy(), []
    for seed in range(40):
        taken, mask = take_piece(image, foreground, np.random.default_rng(seed))
        np.testing.assert_array_equal(taken[~mask], image[~mask])
        assert (taken[mask] < 100).all(axis=1).mean() >= MOSTLY
        assert (foreground[mask] > GROUND).all()
        around = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert (foreground[around] <= GROUND).any()
        sizes.append(mask.mean())
    np.testing.assert_array_equal(image, before)
    assert min(sizes) >= LEAST_AREA
    assert max(sizes) > 5 * min(sizes)


class Straight:
    """Draws the largest gap and never a bend."""

    def uniform(self, _low, high):
        """Return the upper bound."""
        return high

    def normal(self, middle, _spread):
        """Return the middle."""
        return middle


def test_a_gap_is_widest_at_the_edge_and_ends_in_a_point():
    """Its length and its width are those at the edge, and it is open to the outside."""
    outline = missing._gap((SIDE, SIDE), np.array([120, 80]), np.array([20, 80]), Straight())
    widths = outline.sum(0).astype(int)
    length, width = (round(bounds[1] * SIDE) for bounds in (missing.LENGTH, missing.WIDTH))
    assert widths[120] == pytest.approx(width, abs=2)  # its outline is drawn, too
    assert widths[120 - length // 2] == pytest.approx(width / 2, abs=2)
    assert widths[120 + width // 2] == pytest.approx(width, abs=2)
    assert widths[120 - length - 1] == 0 < widths[120 - length + 3]


def test_pieces_are_bites_and_gaps(monkeypatch):
    """Half of each; gaps are the slim ones; nothing is taken that does not hang together with the outside."""
    image, foreground = disc()
    drawn, slim = [], {"_gap": [], "_bite": []}
    for name in slim:
        made = getattr(missing, name)
        monkeypatch.setattr(missing, name, lambda *given, made=made, name=name: (drawn.append(name), made(*given))[1])
    for seed in range(80):
        mask = take_piece(image, foreground, np.random.default_rng(seed))[1].astype(np.uint8)
        _, labels = cv2.connectedComponents(np.maximum(mask, foreground <= GROUND))
        assert len(set(labels[mask > 0])) == 1 == labels[mask > 0][0]  # all one with the ground
        box = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))[1]
        slim[drawn[-1]].append(min(box) / max(box))
    assert 0.3 < len(slim["_gap"]) / 80 < 0.7
    assert np.median(slim["_gap"]) < 0.45 < np.median(slim["_bite"])


@pytest.mark.parametrize("shape", [(32, 32), (40, 400), (301, 77)])
def test_parts_of_any_size_lose_a_piece(shape):
    """Small, wide and tall frames do, too, and the same seed takes the same piece."""
    image, foreground = disc(*shape)
    first, again = (take_piece(image, foreground, np.random.default_rng(5)) for _ in range(2))
    assert first[1].any()
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_an_edge_or_a_background_nothing_is_taken():
    """A frame that is all part, or no part, has no piece to lose; a hair of background is not enough for one."""
    image, foreground = disc()
    for value in (0.0, 1.0):
        assert take_piece(image, np.full_like(foreground, value), np.random.default_rng(0)) is None
    foreground = np.ones_like(foreground)
    foreground[:3, :5] = 0.0
    assert take_piece(image, foreground, np.random.default_rng(0)) is None
    foreground[:6, :8] = 0.0  # as large as the smallest piece, which lies elsewhere
    assert take_piece(image, foreground, np.random.default_rng(0)) is None


def test_a_piece_keeps_its_kind_while_its_place_is_looked_for(monkeypatch):
    """Or the smaller kind, which fits behind the part more often, would come more often than it should."""
    image, foreground = disc()
    drawn = []
    for name in ("_gap", "_bite"):
        made = getattr(missing, name)
        monkeypatch.setattr(missing, name, lambda *given, made=made, name=name: (drawn.append(name), made(*given))[1])
    monkeypatch.setattr(missing, "_behind", lambda *_: None)
    for seed in range(8):
        drawn.clear()
        assert take_piece(image, foreground, np.random.default_rng(seed)) is None
        assert len(drawn) == missing.MOST_PIECES
        assert len(set(drawn)) == 1


def test_a_recipe_asks_for_missing_pieces():
    """As often as it says, of the frames that are not clean; never without a foreground, nor where it says nothing."""
    image, foreground = disc()
    kinds = {}
    for share, known in ((0.35, foreground), (0.35, None), (0.0, foreground)):
        defects = SyntheticDefects([Frame(image, "good/0")], recipe=DefectRecipe(clean=0.0, missing=share))
        drawn = [defects.draw(image, number, foreground=known).kind for number in range(200)]
        kinds[share, known is not None] = drawn.count("missing piece")
    assert 45 <= kinds[0.35, True] <= 95
    assert kinds[0.35, False] == kinds[0.0, True] == 0


def test_a_part_without_background_gets_other_defects():
    """Where no piece can be taken the recipe's other kinds are drawn."""
    image, foreground = disc()
    defects = SyntheticDefects([Frame(image, "good/0")], recipe=DefectRecipe(clean=0.0, missing=1.0))
    assert defects.draw(image, 0, foreground=np.ones_like(foreground)).kind != "missing piece"
