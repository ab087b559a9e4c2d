"""One picture out of many: frames beside their overlays, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.images import read_image, write_png
from runtime.inspection import Verdict

#: Side of each frame on the sheet, gap and caption height, in pixels.
TILE_PX, GAP_PX, CAPTION_PX = 220, 10, 30
COLUMNS = 4
_CELL = (2 * TILE_PX + CAPTION_PX + 2 * GAP_PX, TILE_PX + GAP_PX)
_PAPER = (250, 250, 248)
_INK = {Verdict.OK: (30, 120, 50), Verdict.NOT_OK: (190, 30, 30), Verdict.NOT_DECIDABLE: (170, 120, 0)}


@dataclass(frozen=True)
class Picture:
    """A frame, its overlay, and what to say about it."""

    frame: Path
    overlay: Path
    caption: str
    verdict: Verdict


def write_contact_sheet(pictures: Sequence[Picture], file: Path) -> None:
    """Write a PNG with one cell a picture, ``COLUMNS`` abreast: frame above overlay, caption below.

    Frames are drawn square. No pictures give a blank sheet. Raises ``ConfigError`` for a picture that cannot be read.
    """
    cells = [_cell(picture) for picture in pictures]
    blank = np.full((*_CELL, 3), _PAPER, np.uint8)
    cells += [blank] * ((-len(cells) % COLUMNS) if cells else COLUMNS)
    margin = np.full((_CELL[0], GAP_PX, 3), _PAPER, np.uint8)
    rows = [np.hstack([*cells[start : start + COLUMNS], margin]) for start in range(0, len(cells), COLUMNS)]
    write_png(file, np.ascontiguousarray(np.vstack(rows)))


def _cell(picture: Picture) -> np.ndarray:
    import cv2

    cell = np.full((*_CELL, 3), _PAPER, np.uint8)
    for place, path in enumerate((picture.frame, picture.overlay)):
        image = read_image(path)
        image = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, 2)  # noqa: PLR2004 - grey
        top = GAP_PX + place * TILE_PX
        tile = cv2.resize(image, (TILE_PX - 4, TILE_PX - 4), interpolation=cv2.INTER_AREA)
        cell[top : top + TILE_PX - 4, GAP_PX : GAP_PX + TILE_PX - 4] = tile
    baseline = GAP_PX + 2 * TILE_PX + 16
    ink = _INK.get(picture.verdict, (0, 0, 0))
    cv2.putText(cell, picture.caption, (GAP_PX, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, 1, cv2.LINE_AA)
    return cell
