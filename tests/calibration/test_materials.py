"""Textures, real defects, checkpoint and budget: what is wrong with them is said before anything is learnt."""

import cv2
import numpy as np
import pytest

from calibration.materials import read_defects, read_materials, read_textures
from runtime.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    """Return a folder with two defective parts, one mask named each way."""
    (tmp_path / "masks").mkdir()
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 10:20] = 255
    for name, mask_name in (("a", "a_mask"), ("b", "b")):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((30, 40, 3), 80, np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{mask_name}.png"), mask)
    return tmp_path


def test_defects_come_with_their_masks(folder):
    """Both ways of naming a mask are read; a slice is lazy too."""
    defects = read_defects(folder)
    assert [each.frame.name for each in defects] == ["a.png", "b.png"]
    assert [int(each.mask.sum()) for each in defects[:2]] == [100, 100]
    assert defects[1].frame.image.shape == (30, 40, 3)


def broken(folder, how):
    """Damage the folder in one way; return what the error must say."""
    mask = folder / "masks" / "b.png"
    if how == "no mask":
        mask.unlink()
        return "expected a mask for b.png"
    if how == "black mask":
        cv2.imwrite(str(mask), np.zeros((30, 40), np.uint8))
        return "mask of b.png, found it black"
    if how == "other size":
        cv2.imwrite(str(mask), np.full((31, 40), 255, np.uint8))
        return "as large as its image"
    if how == "torn image":
        (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:40])
        return "b.png"
    for image in folder.glob("*.png"):
        image.unlink()
    return "expected images of defective parts"


@pytest.mark.parametrize("how", ["no mask", "black mask", "other size", "torn image", "no images"])
def test_a_damaged_defect_folder_is_told_at_once(folder, how):
    """Every way a folder of defects can be unfit is one error that names the file."""
    said = broken(folder, how)
    with pytest.raises(ConfigError, match=said):
        read_materials(textures=None, defects=folder, checkpoint=None, budget_min=None)


def test_textures_are_found_in_sub_folders(folder):
    """Pictures in sub-folders count, hidden folders do not; the names are relative to the folder."""
    (folder / ".hidden").mkdir()
    cv2.imwrite(str(folder / ".hidden" / "c.png"), np.zeros((5, 5), np.uint8))
    assert [sample.name for sample in read_textures(folder).samples] == [
        "a.png", "b.png", "masks/a_mask.png", "masks/b.png",
    ]  # fmt: skip


def test_no_textures_is_an_error(tmp_path):
    """An empty folder, and none at all, say what to do."""
    with pytest.raises(ConfigError, match="built-in textures"):
        read_textures(tmp_path)
    with pytest.raises(ConfigError, match="none that can be read"):
        read_textures(tmp_path / "missing")


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_budget_is_a_time(minutes):
    """Zero, negative and undefined minutes are refused."""
    with pytest.raises(ConfigError, match="--budget"):
        read_materials(textures=None, defects=None, checkpoint=None, budget_min=minutes)


def test_a_checkpoint_is_a_folder(folder):
    """A file is refused; a folder that is not there yet is fine, and nothing is written to it."""
    with pytest.raises(ConfigError, match="expected a folder"):
        read_materials(textures=None, defects=None, checkpoint=folder / "a.png", budget_min=None)
    materials = read_materials(textures=None, defects=None, checkpoint=folder / "new", budget_min=2)
    assert (materials.budget_s, (folder / "new").exists()) == (120.0, False)
