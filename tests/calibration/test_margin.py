"""The trial that decides what a number format may cost: the same defects each time, and losses that are found."""

from types import SimpleNamespace

import numpy as np
import pytest

from calibration.margin import DEFECTS, MOST_LOST, Figures, good_half, shortfall, trial_of
from runtime.detector import DetectorResult
from runtime.store.template import GoldenFrame

SIDE = 48


def template(good, *, grey=True):
    """Return what a trial reads of a template: ``good`` frames, as many damaged ones, a map of half their size."""
    shape = (SIDE, SIDE) if grey else (SIDE, SIDE, 3)
    frames = [np.random.default_rng(seed).integers(90, 110, shape, dtype=np.uint8) for seed in range(good)]
    golden = [GoldenFrame(frame, np.zeros((SIDE // 2, SIDE // 2), np.float32), 0.0) for frame in (*frames, *frames)]
    manifest = SimpleNamespace(held_out_scores=(1.0, 2.0), map_shape=(SIDE // 2, SIDE // 2))
    return SimpleNamespace(golden=lambda: golden, manifest=manifest)


class Contrast:
    """An engine whose map is each pixel's distance from grey 100, blurred by ``noise``."""

    def __init__(self, noise=0.0):
        self.noise = np.random.default_rng(0).normal(0, noise, (SIDE // 2, SIDE // 2)) if noise else 0.0

    def infer(self, frame):
        """Return map and largest value."""
        grey = frame if frame.ndim == 2 else frame.mean(axis=2)
        far = np.abs(grey.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3)) - 100) + self.noise
        return DetectorResult(far.astype(np.float32), float(far.max()))


@pytest.mark.parametrize("grey", [True, False])
def test_a_trial_is_the_same_each_time(grey):
    """Frames, masks and good scores depend on the template alone; every planted frame has a mask and differs."""
    one, other = trial_of(template(2, grey=grey)), trial_of(template(2, grey=grey))
    assert (len(one.good), one.held_out) == (2, (1.0, 2.0))
    assert DEFECTS * 0.7 < len(one.planted) <= DEFECTS  # a tenth are left clean, and not counted
    assert len(one.masks) == len(one.planted)
    assert all(mask.any() and mask.shape == (SIDE // 2, SIDE // 2) for mask in one.masks)
    assert all((a == b).all() for a, b in zip(one.planted, other.planted, strict=True))
    assert {frame.shape for frame in one.planted} == {one.good[0].shape}
    assert all(all((frame != good).any() for good in one.good) for frame in one.planted)


def test_an_engine_that_sees_less_scores_less():
    """The same engine loses nothing; one drowned in noise falls short in both metrics."""
    trial = trial_of(template(2))
    reference = trial.figures(Contrast())
    assert shortfall(reference, trial.figures(Contrast())) == ""
    said = shortfall(reference, trial.figures(Contrast(noise=80)))
    assert "image_auroc falls from" in said
    assert "pixel_ap falls from" in said


@pytest.mark.parametrize("name", MOST_LOST)
def test_the_margin_is_the_margin(name):
    """A loss of the margin passes, one beyond it does not, a gain always does."""
    reference = Figures(0.9, 0.9)
    for factor, is_fine in ((0.99, True), (1.01, False), (-5, True)):
        found = Figures(**{"image_auroc": 0.9, "pixel_ap": 0.9} | {name: 0.9 - factor * MOST_LOST[name]})
        assert (shortfall(reference, found) == "") is is_fine


def test_a_template_without_golden_frames_has_no_metrics():
    """Nothing to plant into: no figures, and nothing that could fall short."""
    figures = trial_of(template(0)).figures(Contrast())
    assert figures == Figures(None, None)
    assert shortfall(figures, figures) == ""


def test_nan_is_a_shortfall():
    """A metric that is no number never passes."""
    assert shortfall(Figures(0.9, 0.9), Figures(float("nan"), 0.9)) != ""


def test_good_frames_are_the_first_half():
    """Golden frames are good ones, then the same ones damaged; a single one is good."""
    frames = template(3).golden()
    assert len(good_half(frames)) == 3
    assert len(good_half(frames[:1])) == 1
