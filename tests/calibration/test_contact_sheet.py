"""The contact sheet: every picture where it belongs, beside its overlay."""

import cv2
import numpy as np
import pytest

from calibration.contact_sheet import COLUMNS, GAP_PX, TILE_PX, Picture, write_contact_sheet
from runtime.errors import ConfigError
from runtime.inspection import Verdict


def pictures(folder, count, grey=False):
    """Return pictures whose frame is level 10 i and whose overlay is level 10 i + 5."""
    made = []
    for index in range(count):
        for name, level in (("frame", 10 * index), ("overlay", 10 * index + 5)):
            shape = (40, 40) if grey else (40, 40, 3)
            cv2.imwrite(str(folder / f"{index}_{name}.png"), np.full(shape, level, np.uint8))
        paths = (folder / f"{index}_frame.png", folder / f"{index}_overlay.png")
        made.append(Picture(*paths, f"part {index}", (Verdict.OK, Verdict.NOT_OK)[index % 2]))
    return made


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_every_picture_has_its_place(count, grey, tmp_path):
    """Frames stand above their overlays, in reading order, with a margin on every side."""
    write_contact_sheet(pictures(tmp_path, count, grey), tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    cell_height = sheet.shape[0] // -(-count // COLUMNS)
    for index in range(count):
        row, column = divmod(index, COLUMNS)
        middle = (row * cell_height + GAP_PX + TILE_PX // 2, GAP_PX + column * (TILE_PX + GAP_PX) + TILE_PX // 2)
        assert (sheet[middle] == 10 * index).all()
        assert (sheet[middle[0] + TILE_PX, middle[1]] == 10 * index + 5).all()
    assert (sheet[:, :GAP_PX] > 240).all()
    assert (sheet[:, -GAP_PX:] > 240).all()
    assert sheet.shape[1] == COLUMNS * (TILE_PX + GAP_PX) + GAP_PX


def test_captions_have_the_colour_of_the_verdict(tmp_path):
    """A caption is written below the overlay, green for OK and red for NotOK."""
    write_contact_sheet(pictures(tmp_path, 2), tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png")).astype(int)
    captions = sheet[2 * TILE_PX + GAP_PX :]
    for column, channel in ((0, 1), (1, 2)):
        part = captions[:, column * (TILE_PX + GAP_PX) + GAP_PX :][:, :TILE_PX]
        ink = part[part.sum(axis=2) < 400]
        assert len(ink) > 20
        assert (ink.argmax(axis=1) == channel).all()


def test_no_pictures_give_a_blank_sheet(tmp_path):
    """Nothing to show is a sheet of paper, not an error."""
    write_contact_sheet([], tmp_path / "sheet.png")
    assert (cv2.imread(str(tmp_path / "sheet.png")) > 240).all()


def test_a_missing_picture_is_named(tmp_path):
    """A picture that is not there is an error with its path."""
    (picture,) = pictures(tmp_path, 1)
    picture.overlay.unlink()
    with pytest.raises(ConfigError, match="0_overlay"):
        write_contact_sheet([picture], tmp_path / "sheet.png")
