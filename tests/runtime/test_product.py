"""The simulated product: same words, same bytes; masks are exact; defects are visible; the data set can be read."""

import functools
import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from runtime.errors import ConfigError
from runtime.testing.bench import GAIN, GRADIENT, ROTATION_DEG, SCALING, SHIFT_PX
from runtime.testing.product import DEFECTS, VISIBLE_LEVELS, SimulatedProduct, write_dataset

PRODUCT = SimulatedProduct(seed=3)
INDICES = range(30)

# Over 120 indices and two seeds the masks measured 85..472 px for the thin kinds and 167..2470 px for the others; the
# bounds leave half as much again. A picture has 102,400 px.
THIN, BROAD = (55, 710), (110, 3700)
AREAS = dict.fromkeys(DEFECTS, BROAD) | {"scratch": THIN, "contamination": THIN}


@functools.cache
def clean(index):
    """Draw a good part once for all tests."""
    return PRODUCT.draw(index)


def test_pictures_have_the_documented_shape_and_type():
    """A part is uint8 [H, W, 3] with a bool [H, W] mask and its label, also when the picture is not square."""
    part = SimulatedProduct(seed=1, size=(160, 240)).draw(2, "stain")
    assert (part.image.shape, part.image.dtype) == ((160, 240, 3), np.uint8)
    assert (part.mask.shape, part.mask.dtype) == ((160, 240), np.bool_)
    assert part.label == "stain"
    assert part.mask.any()


@pytest.mark.parametrize("defect", [None, *DEFECTS])
def test_same_words_give_the_same_bytes(defect):
    """Two products made alike draw the same bytes, whatever was drawn before and whatever the global random state."""
    np.random.seed(1)  # noqa: NPY002  the point is that this state does not matter
    first = SimulatedProduct(seed=3).draw(7, defect)
    np.random.seed(2)  # noqa: NPY002
    other = SimulatedProduct(seed=3)
    other.draw(1, "dent")
    second = other.draw(7, defect)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()


@pytest.mark.system
def test_a_fresh_process_draws_the_same_bytes():
    """The bytes depend on (seed, index, defect) only, not on the process that draws them."""
    code = (
        "import hashlib; from runtime.testing.product import SimulatedProduct; p = SimulatedProduct(seed=3);"
        "print(*(hashlib.sha256(p.draw(11, d).image.tobytes()).hexdigest() for d in (None, 'stain', 'chip')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    here = [hashlib.sha256(PRODUCT.draw(11, d).image.tobytes()).hexdigest() for d in (None, "stain", "chip")]
    assert done.stdout.split() == here


def test_another_index_or_seed_is_another_picture():
    """No two of thirty parts are alike, and another seed is another lot code and other pictures."""
    assert len({clean(index).image.tobytes() for index in INDICES}) == len(INDICES)
    other = SimulatedProduct(seed=4)
    assert other.plate.lot != PRODUCT.plate.lot
    assert not np.array_equal(other.draw(0).image, clean(0).image)


def test_good_parts_have_empty_masks():
    """A part drawn without a defect is labelled good and nothing in it is marked."""
    for index in INDICES:
        assert clean(index).label == "good"
        assert not clean(index).mask.any()


@pytest.mark.parametrize("kind", DEFECTS)
def test_defects_change_exactly_their_mask_and_are_visible(kind):
    """A defect changes its masked pixels past the threshold and no others; it is neither tiny nor huge, and varies."""
    least, most = AREAS[kind]
    areas = []
    for index in INDICES:
        part = PRODUCT.draw(index, kind)
        change = np.abs(part.image.astype(np.int16) - clean(index).image).max(axis=2)
        assert np.array_equal(part.mask, change > VISIBLE_LEVELS)
        assert not change[~part.mask].any()
        # A quarter of the defect stands out by ten times the sensor noise: a person sees it without being told where.
        assert np.percentile(change[part.mask], 75) > 20
        areas.append(int(part.mask.sum()))
    assert least <= min(areas)
    assert max(areas) <= most
    assert len(set(areas)) > 10


def test_missing_hole_fills_one_hole_with_metal():
    """The logical defect turns one dark hole bright: most of its mask brightens and it is as wide as a hole."""
    part = PRODUCT.draw(4, "missing_hole")
    rows, columns = np.nonzero(part.mask)
    middle = np.s_[int(rows.mean()) - 2 : int(rows.mean()) + 3, int(columns.mean()) - 2 : int(columns.mean()) + 3]
    assert part.image[middle].mean() > clean(4).image[middle].mean() + 60
    assert 15 <= np.ptp(rows) <= 34
    assert 15 <= np.ptp(columns) <= 34


def test_jitter_stays_within_its_bounds_and_uses_them():
    """Pose and lighting never leave the stated bounds and come close to each of them over 300 parts."""
    poses = [PRODUCT.pose(index) for index in range(300)]
    lights = [PRODUCT.lighting(index) for index in range(300)]
    drawn = {
        ROTATION_DEG: [pose.rotation_deg for pose in poses],
        SHIFT_PX: [pose.shift_x for pose in poses] + [pose.shift_y for pose in poses],
        SCALING: [pose.scale - 1 for pose in poses],
        GAIN: [light.gain - 1 for light in lights],
        180.0: [light.direction_deg for light in lights],
    }
    for bound, values in drawn.items():
        assert max(map(abs, values)) <= bound + 1e-12
        assert max(values) > 0.9 * bound
        assert min(values) < -0.9 * bound
    gradients = [light.gradient for light in lights]
    assert min(gradients) >= 0
    assert 0.9 * GRADIENT < max(gradients) <= GRADIENT


def outline(image):
    """Centre (x, y) in px, rotation in degrees counter-clockwise and width in px of the bright part of a picture."""
    bright = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > 75).astype(np.uint8)
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    (x, y), (w, h), angle = cv2.minAreaRect(cv2.convexHull(max(contours, key=cv2.contourArea)))
    return x, y, -((angle + 45) % 90 - 45), max(w, h)


def test_the_picture_shows_the_pose_it_states():
    """Position, rotation and scale measured in the picture are those of ``pose``, and brightness follows ``gain``."""
    measured = np.array([outline(clean(index).image) for index in INDICES])
    poses = [PRODUCT.pose(index) for index in INDICES]
    stated = np.array([(p.shift_x, p.shift_y, p.rotation_deg, p.scale) for p in poses])
    measured[:, 3] /= measured[:, 3].mean() / stated[:, 3].mean()
    error = measured - stated
    error[:, :2] -= (320 - 1) / 2
    # The outline is found to about a pixel: where its dark lower chamfer ends is a matter of the cut.
    assert (np.abs(error).max(axis=0) < (1.0, 1.0, 0.5, 0.007)).all()
    levels = np.array([np.median(clean(index).image[100:220, 100:220]) for index in INDICES])
    gains = np.array([PRODUCT.lighting(index).gain for index in INDICES])
    assert np.corrcoef(levels, gains)[0, 1] > 0.9


def test_pictures_are_neither_burnt_out_nor_crushed():
    """A camera set up well clips next to nothing: under 1 % of a good picture's values are 0 or 255."""
    for index in range(5):
        image = clean(index).image
        assert np.isin(image, (0, 255)).mean() < 0.01


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: SimulatedProduct(seed=-1), "found -1"),
        (lambda: SimulatedProduct(size=(64, 320)), r"found \(64, 320\)"),
        (lambda: PRODUCT.draw(-1), "found -1"),
        (lambda: PRODUCT.draw(0, "rust"), "found 'rust'"),
    ],
)
def test_wrong_words_are_refused(call, found):
    """A seed, size, index or defect that cannot be drawn is the caller's error, and the message says what was found."""
    with pytest.raises(ConfigError, match=found):
        call()


def test_dataset_has_the_mvtec_layout_and_reads_back(tmp_path):
    """Every picture and mask reads back bit for bit where MVTec readers look, and no part appears twice."""
    product, steps = SimulatedProduct(seed=5, size=(160, 160)), []
    root = tmp_path / "bracket"
    written = write_dataset(root, product, 3, 2, 2, progress=lambda *step: steps.append(step))
    pictures = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png") if "mask" not in path.name)
    expected = [f"train/good/{n:03d}.png" for n in range(3)]
    expected += [f"test/{label}/{n:03d}.png" for label in ("good", *DEFECTS) for n in range(2)]
    assert pictures == sorted(expected)
    assert written == len(expected)
    assert steps == [(n + 1, written) for n in range(written)]
    assert len({(root / picture).read_bytes() for picture in pictures}) == written
    for number, kind in enumerate(DEFECTS):
        for n in range(2):
            part = product.draw(5 + 2 * number + n, kind)
            image = cv2.imread(str(root / "test" / kind / f"{n:03d}.png"))
            mask = cv2.imread(str(root / "ground_truth" / kind / f"{n:03d}_mask.png"), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(image[..., ::-1], part.image)
            assert np.array_equal(mask, part.mask.astype(np.uint8) * 255)
    assert not (root / "ground_truth" / "good").exists()


def test_dataset_is_not_mixed_with_another(tmp_path):
    """A folder that already holds a set, a negative count and a path that is a file are refused."""
    product = SimulatedProduct(size=(128, 128))
    (tmp_path / "old" / "train").mkdir(parents=True)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"found .*train"):
        write_dataset(tmp_path / "old", product, 1, 0, 0)
    with pytest.raises(ConfigError, match="good of 0 or more, found -1"):
        write_dataset(tmp_path / "new", product, 1, -1, 0)
    with pytest.raises(ConfigError, match="folder to write to"):
        write_dataset(tmp_path / "file", product, 1, 0, 0)
