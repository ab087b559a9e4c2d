"""Reading sets from disk: both layouts, masks, and every way a set can contradict itself."""

import numpy as np
import pytest

from calibration.dataset import read_dataset, read_mask, references_from
from runtime.errors import ConfigError
from runtime.images import write_png

SHAPE = (6, 8)


def put(path, image=None):
    """Write a picture, grey by default, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full(SHAPE, 90, np.uint8) if image is None else image)


def spot(value=255, dtype=np.uint8):
    """Return a mask whose only defect pixel is (2, 3)."""
    mask = np.zeros(SHAPE, dtype)
    mask[2, 3] = value
    return mask


@pytest.fixture
def mvtec(tmp_path):
    """Two references, one good and two defect test images, both with masks."""
    for name in ("train/good/10.png", "train/good/9.png", "test/good/000.png", "test/cut/0.PNG", "test/cut/1.png"):
        put(tmp_path / name)
    for name in ("0", "1"):
        put(tmp_path / "ground_truth" / "cut" / f"{name}_mask.png", spot())
    return tmp_path


def test_mvtec_layout_is_read_whole(mvtec):
    """References and test images come in natural order with posix names, labels and masks, and nothing to warn of."""
    found = read_dataset(mvtec)
    assert [sample.name for sample in found.references] == ["train/good/9.png", "train/good/10.png"]
    assert [(s.name, s.label, s.is_defect) for s in found.test] == [
        ("test/cut/0.PNG", "cut", True),
        ("test/cut/1.png", "cut", True),
        ("test/good/000.png", "good", False),
    ]
    truth = mvtec / "ground_truth" / "cut"
    assert [s.mask_path for s in found.test] == [truth / "0_mask.png", truth / "1_mask.png", None]
    assert found.warnings == ()
    assert references_from(mvtec) == found.references


def test_plain_folder_gives_references_only(tmp_path):
    """A folder of images is a set of good references without a test."""
    put(tmp_path / "b.png")
    put(tmp_path / "a.png")
    found = read_dataset(tmp_path)
    assert [(s.name, s.label) for s in found.references] == [("a.png", "good"), ("b.png", "good")]
    assert found.test == ()


@pytest.mark.parametrize("name", ["1.png", "1_mask.PNG", "1_MASK.png"])
def test_mask_names_with_and_without_suffix_are_matched(mvtec, name):
    """A mask named as its image, with or without ``_mask``, in any case of suffix, is found."""
    (mvtec / "ground_truth" / "cut" / "1_mask.png").unlink()
    put(mvtec / "ground_truth" / "cut" / "draft.png", spot())
    (mvtec / "ground_truth" / "cut" / "draft.png").rename(mvtec / "ground_truth" / "cut" / name)
    assert [s.mask_path.name for s in read_dataset(mvtec).test if s.is_defect] == ["0_mask.png", name]


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (128, np.uint8), (1, np.uint8), (2, np.uint16)])
def test_mask_values_of_drawn_and_numbered_masks_count(mvtec, value, dtype):
    """White, half white, and class numbers in files without any white all mark the defect."""
    put(mvtec / "ground_truth" / "cut" / "0_mask.png", spot(value, dtype))
    mask = read_mask(read_dataset(mvtec).test[0], SHAPE)
    assert mask.dtype == np.bool_
    assert np.argwhere(mask).tolist() == [[2, 3]]


def test_soft_edges_of_a_drawn_mask_are_cut_at_half(mvtec):
    """Beside white pixels, greys below half are background."""
    soft = spot()
    soft[2, 2], soft[2, 4] = 127, 128
    put(mvtec / "ground_truth" / "cut" / "0_mask.png", soft)
    assert np.argwhere(read_mask(read_dataset(mvtec).test[0], SHAPE)).tolist() == [[2, 3], [2, 4]]


def test_a_folder_of_masks_is_united(mvtec):
    """Several masks of one image, kept in a folder of its name as in MVTec LOCO, are one mask."""
    truth = mvtec / "ground_truth" / "cut"
    (truth / "0_mask.png").unlink()
    put(truth / "0" / "000.png", spot(240))
    put(truth / "0" / "001.png", spot().T.reshape(SHAPE))
    found = read_dataset(mvtec)
    assert found.warnings == ()
    assert read_mask(found.test[0], SHAPE).sum() == 2


def test_good_images_have_empty_masks(mvtec):
    """A good image reads as all False without a mask, and with an empty one; a marked one is a contradiction."""
    good = read_dataset(mvtec).test[2]
    assert not read_mask(good, SHAPE).any()
    put(mvtec / "ground_truth" / "good" / "000.png", spot(0))
    assert not read_mask(read_dataset(mvtec).test[2], SHAPE).any()
    put(mvtec / "ground_truth" / "good" / "000.png", spot())
    with pytest.raises(ConfigError, match=r"empty mask for the good image test/good/000\.png, found 1"):
        read_mask(read_dataset(mvtec).test[2], SHAPE)


def test_a_mask_of_another_size_is_refused_when_read(mvtec):
    """The error names mask, image and both sizes."""
    with pytest.raises(ConfigError, match=r"0_mask\.png .* test/cut/0\.PNG, 9 x 6 px, found 8 x 6 px"):
        read_mask(read_dataset(mvtec).test[0], (6, 9))


def test_partly_masked_classes_are_reported(mvtec):
    """A class with masks for some images only is a warning that names the others, whose masks cannot be read."""
    (mvtec / "ground_truth" / "cut" / "1_mask.png").unlink()
    found = read_dataset(mvtec)
    assert found.warnings == ("test/cut has masks for 1 of 2 images; without: test/cut/1.png",)
    assert found.test[1].mask_path is None
    with pytest.raises(ConfigError, match=r"expected a mask for test/cut/1\.png"):
        read_mask(found.test[1], SHAPE)


def test_what_is_not_read_is_named(mvtec):
    """Other files, other training folders, empty classes and stray images are warned of; hidden files are not."""
    (mvtec / "train" / "good" / "notes.txt").write_text("x")
    (mvtec / "train" / "good" / ".thumbs.png").write_text("x")
    put(mvtec / "train" / "cut" / "1.png")
    put(mvtec / "stray.png")
    (mvtec / "test" / "hole").mkdir()
    found = read_dataset(mvtec)
    assert len(found.references) == 2
    text = "\n".join(found.warnings)
    for part in ("notes.txt", "train/cut is not read", "test/hole holds no images", "stray.png"):
        assert part in text
    assert len(found.warnings) == 4


def unlink(path):
    """Remove a file inside an expression."""
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (
            lambda root: unlink(root / "test" / "cut" / "1.png"),
            r"an image named 1 in test/cut for the mask .*1_mask\.png",
        ),
        (lambda root: put(root / "ground_truth" / "hole" / "1.png"), r"test/hole, found no such folder"),
        (lambda root: put(root / "ground_truth" / "cut" / "1.png"), r"one mask for 1 .* found 1\.png and 1_mask\.png"),
        (lambda root: (root / "test" / "cut" / "1.jpg").write_bytes(b""), r"one file per stem .* 1\.jpg and 1\.png"),
        (lambda root: (root / "train" / "good" / "9.tif").write_bytes(b""), r"one file per stem .* 9\.png and 9\.tif"),
        (lambda root: put(root / "test" / "x.png"), "images directly in it"),
        (lambda root: (root / "test" / "good").rename(root / "test" / "Good"), "rename the folder"),
        (lambda root: (root / "ground_truth" / "cut" / "1").mkdir(), r"one mask for 1"),
        (lambda root: (root / "train" / "good").rename(root / "train" / "ok"), "train/good"),
    ],
)
def test_contradictions_are_refused(mvtec, spoil, match):
    """Whatever contradicts the layout is a ConfigError naming the files."""
    spoil(mvtec)
    with pytest.raises(ConfigError, match=match):
        read_dataset(mvtec)


def test_a_dot_within_a_stem_is_part_of_it(mvtec):
    """``1.side.png`` is another image than ``1.png``, and a mask or a folder of masks finds the right one."""
    put(mvtec / "test" / "cut" / "1.side.png")
    put(mvtec / "test" / "cut" / "1.top.png")
    put(mvtec / "ground_truth" / "cut" / "1.side_mask.png")
    put(mvtec / "ground_truth" / "cut" / "1.top" / "000.png")
    found = {sample.path.name: sample.mask_path.name for sample in read_dataset(mvtec).test if sample.is_defect}
    assert found == {
        "0.PNG": "0_mask.png",
        "1.png": "1_mask.png",
        "1.side.png": "1.side_mask.png",
        "1.top.png": "1.top",
    }


def test_an_image_whose_own_name_ends_in_mask_is_matched(mvtec):
    """A mask named exactly as such an image belongs to it."""
    put(mvtec / "test" / "cut" / "face_mask.png")
    put(mvtec / "ground_truth" / "cut" / "face_mask.png", spot())
    assert read_dataset(mvtec).test[2].mask_path == mvtec / "ground_truth" / "cut" / "face_mask.png"


def test_no_images_and_no_folder_are_told_apart(tmp_path):
    """An empty folder asks for images; a missing one says that it does not exist."""
    with pytest.raises(ConfigError, match=r"expected good images in .*, found none"):
        read_dataset(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        read_dataset(tmp_path / "nowhere")
