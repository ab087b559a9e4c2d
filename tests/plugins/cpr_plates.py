"""Small plates for CPR's tests, and a plan short enough for them."""

from dataclasses import replace

import cv2
import numpy as np

from edgead import DetectorContext, Frame
from plugins.cpr import CprFaster
from plugins.cpr.plan import plan_of
from plugins.cpr.settings import CprFasterSettings

SIDE = 80
PLATES = 18
SETTINGS = {"image_size": SIDE, "kind": "texture", "score_pixels": 16, "blur_sigma": 1.0, "blur_kernel": 7}
SETTINGS |= {"layers": ("stage1", "stage2")}  # fewer than by default, for the time it takes


def plate(number):
    """Return a brushed plate, uint8 [80, 80]: streaks that differ from plate to plate."""
    rng = np.random.default_rng(number)
    streaks = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), sigmaX=12, sigmaY=0.8)
    return np.clip(120 + 90 * streaks + rng.normal(0, 6, (SIDE, SIDE)), 0, 255).astype(np.uint8)


def scratched(number):
    """Return (a plate with a faint scratch across its streaks, its mask): drawn by nothing that training uses."""
    rng, image = np.random.default_rng(1000 + number), plate(500 + number)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    x, y = rng.integers(15, 65, 2)
    cv2.line(mask, (int(x), int(y) - 12), (int(x) + int(rng.integers(-6, 7)), int(y) + 12), 1, 3)
    image = image.copy()
    image[mask > 0] = np.clip(image[mask > 0].astype(int) - 38, 0, 255)
    return image, mask > 0


def good_plates():
    """Return good plates."""
    return [Frame(plate(number), f"good/{number}") for number in range(PLATES)]


def short(settings, size):
    """Return a plan a test can wait for."""
    plan = plan_of(settings, size)
    steps = 24 if settings.train_steps == "auto" else settings.train_steps
    return replace(plan, steps=steps, batch=6, window=48, pairs=48, pictures=30, compared=2, warm_up=4, rate=2e-3)


def calibrated(references, context=None, **given):
    """Return what cpr-faster learns from the plates."""
    settings = CprFasterSettings.model_validate({**SETTINGS, **given})
    return CprFaster().calibrate(references, settings, context or DetectorContext())
