"""Small plates for PRN's tests, and a plan short enough for them."""

from dataclasses import replace

import cv2
import numpy as np

from edgead import DetectorContext, Frame
from plugins.prn import Prn
from plugins.prn.plan import plan_of
from plugins.prn.settings import PrnSettings

SETTINGS = {"image_size": 128, "width": 4, "kind": "texture", "spare": 2}
PLATES = 16


def plate(number):
    """Return a brushed plate, uint8 [100, 128]: streaks that differ from plate to plate."""
    rng = np.random.default_rng(number)
    streaks = cv2.GaussianBlur(rng.normal(0, 1, (100, 128)).astype(np.float32), (0, 0), sigmaX=12, sigmaY=2)
    return np.clip(120 + 200 * streaks + rng.normal(0, 4, (100, 128)), 0, 255).astype(np.uint8)


def spoilt(number, side=24):
    """Return (a plate with a dark square somewhere, its mask bool)."""
    rng, image = np.random.default_rng(1000 + number), plate(500 + number)
    y, x = rng.integers(5, 70, 2)
    mask = np.zeros(image.shape, bool)
    mask[y : y + side, x : x + side] = True
    return np.where(mask, 30, image).astype(np.uint8), mask


def references(count=PLATES):
    """Return good plates."""
    return [Frame(plate(number), f"good/{number}") for number in range(count)]


def short(settings, good, size):
    """Return a plan a test can wait for."""
    plan = plan_of(settings, good, size)
    steps = 20 if settings.train_steps == "auto" else settings.train_steps
    return replace(
        plan, steps=steps, batch=4, pictures=24, uses=2, warm_up=2, average=0.8, rate=1e-2, examinations=2, patience=9
    )


def calibrated(frames, context=None, **given):
    """Return what prn learns from frames."""
    settings = PrnSettings.model_validate({**SETTINGS, **given})
    return Prn().calibrate(frames, settings, context or DetectorContext())
