"""Draw docs/images/mspba.png: simulated parts, the map of each patch size, and their weighted sum.

Run it from the repository's root: `python tests/plugins/make_mspba_picture.py`. Untrained, 24 references, seed 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from edgead import DetectorContext, Frame
from plugins.mspba import Mspba
from plugins.mspba.settings import MspbaSettings
from runtime.testing.product import SimulatedProduct

SHOWN = ("good", "scratch", "chip", "stain")
REFERENCES = 24
SIDE = 160
TITLES = ("frame", "64 px", "32 px", "16 px", "sum")


def coloured(plane: np.ndarray, most: float) -> np.ndarray:
    """Return a map [S, S] as a picture of SIDE pixels, ``most`` = the brightest."""
    levels = np.clip(255 * plane / most, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(cv2.resize(levels, (SIDE, SIDE)), cv2.COLORMAP_INFERNO)


def main(path: Path) -> None:
    """Draw the picture into ``path``."""
    torch.set_num_threads(1)
    product = SimulatedProduct(seed=0, size=(256, 256))
    references = [Frame(product.draw(index).image, str(index)) for index in range(REFERENCES)]
    detector = Mspba()
    content = detector.calibrate(references, MspbaSettings(train="none"), DetectorContext())
    graph, bank = detector.graph(content, (256, 256, 3)), list(detector.bank(content).values())
    found = []
    for number, kind in enumerate(SHOWN):
        part = product.draw(100 + number) if kind == "good" else product.draw(100 + number, kind)
        with torch.inference_mode():
            planes = graph.resize(torch.tensor(part.image)[None])
            maps = graph.comparison.maps(graph.encoder(planes), bank[1:])
        weighed = [each[0].numpy() * float(weight) for each, weight in zip(maps, bank[0], strict=True)]
        found.append((part.image, [*weighed, sum(weighed)]))
    # One scale for each column, so that a good part's map is as dark as it is.
    most = [max(float(maps[column].max()) for _, maps in found) for column in range(4)]
    rows = []
    for image, maps in found:
        frame = cv2.resize(image[:, :, ::-1], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        rows.append(np.hstack([frame, *(coloured(each, top) for each, top in zip(maps, most, strict=True))]))
    head = np.full((22, rows[0].shape[1], 3), 255, np.uint8)
    for column, title in enumerate(TITLES):
        cv2.putText(head, title, (column * SIDE + 6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.imwrite(str(path), np.vstack([head, *rows]))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/mspba.png"))
