"""What a narrower number format may cost: metrics on a template's own golden frames with synthetic defects planted.

A station has no labelled set at hand when it builds engines, but its template keeps a few good frames and the held-out
scores of all of them. Defects are planted into those frames as for training (thin, small and faint ones among them),
the same ones each time, and every engine answers them. Image AUROC sets their scores against those of the good parts:
the golden frames as this engine answers them and the held-out scores as the reference did, because their frames are
not kept. Pixel AP is taken over the planted frames. What is compared is the loss against the eager reference, on the
same frames; the figures themselves say nothing about real defects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from calibration.masks import resize_mask
from calibration.metrics import auroc, pixel_metrics
from calibration.synthetic.defects import DEFECT_RECIPES, SyntheticDefects
from runtime.engines.engine import Engine
from runtime.frame import Frame
from runtime.store.template import GoldenFrame, Template

#: Defects planted in all, shared out among the good frames. One that falls below all good parts costs 2 % of the image
#: AUROC, one that falls below one of fifteen good parts 0.14 %.
DEFECTS = 48
#: Most that either metric may fall. Choices, not measurements: ADR 0034.
MOST_LOST = {"image_auroc": 0.005, "pixel_ap": 0.01}


@dataclass(frozen=True)
class Figures:
    """Both metrics, 0..1, None where a template keeps too little to take them."""

    image_auroc: float | None
    pixel_ap: float | None


@dataclass(frozen=True)
class Trial:
    """Good frames, planted ones with masks of the map's size (bool [h, w]), and scores of good parts from before."""

    good: tuple[np.ndarray, ...]
    planted: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]
    held_out: tuple[float, ...]

    def figures(self, engine: Engine) -> Figures:
        """Let an engine answer all frames, and return its metrics."""
        if not self.planted:
            return Figures(None, None)
        scores = [*self.held_out, *(engine.infer(frame).score for frame in self.good)]
        found = [engine.infer(frame) for frame in self.planted]
        labels = [False] * len(scores) + [True] * len(found)
        image = auroc(labels, scores + [each.score for each in found])
        return Figures(image, pixel_metrics([each.anomaly_map for each in found], self.masks).ap)


def trial_of(template: Template, defects: int = DEFECTS) -> Trial:
    """Return the trial of a template: the same one every time; without golden frames one without frames."""
    good = good_half(template.golden())
    planted, masks = [], []
    if good:
        recipe = DEFECT_RECIPES["varied"]
        source = SyntheticDefects([Frame(frame, f"golden {index}") for index, frame in enumerate(good)], recipe=recipe)
        for number in range(defects):
            frame = good[number % len(good)]
            drawn = source.draw(frame, number)
            if drawn.mask.any():  # else it was left clean
                planted.append(np.ascontiguousarray(drawn.image[:, :, 0]) if frame.ndim == _GREY else drawn.image)
                masks.append(resize_mask(drawn.mask, template.manifest.map_shape))
    return Trial(good, tuple(planted), tuple(masks), tuple(template.manifest.held_out_scores))


def good_half(golden: Sequence[GoldenFrame]) -> tuple[np.ndarray, ...]:
    """Return the golden frames without damage: the first half, as ``calibration.calibrate`` keeps them."""
    return tuple(each.frame for each in golden[: (len(golden) + 1) // 2])


def shortfall(reference: Figures, found: Figures) -> str:
    """Return which metric falls by more than ``MOST_LOST``, with its figures, or "" where neither does."""
    faults = []
    for name, most in MOST_LOST.items():
        expected, value = asdict(reference)[name], asdict(found)[name]
        if expected is not None and value is not None and not expected - value <= most:
            faults.append(f"{name} falls from {expected:.4f} to {value:.4f}, where {most:g} is allowed")
    return "; ".join(faults)


_GREY = 2  # axes of a grey frame
