"""Tells frames that show nothing from frames that show a part: over-exposed, black, or the same grey all over.

A detector may well find such a frame normal: a lamp that died, a lens cap or an aperture left open must not become OK.
Everything is read from a sample of the frame, so that it costs the same whatever the camera's resolution.
"""

from __future__ import annotations

import math

import numpy as np

#: Most rows and columns of a sample: 1024 places say a share to within 1.6 % (one standard deviation).
SAMPLE_SIDE = 32
#: A value from here up counts as saturated, and up to here as black: sensors clip a little before 255 and rest a
#: little above 0.
SATURATED, BLACK = 250, 5
#: Part of the values left out at each end when contrast is read: a few hot or dead pixels are no contrast.
OUTLIERS = 0.01
#: The levels that do not count, to be deleted from a sample's bytes: what is left has the length wanted.
_NOT_SATURATED, _NOT_BLACK = bytes(range(SATURATED)), bytes(range(BLACK + 1, 256))


def sample_frame(image: np.ndarray) -> np.ndarray:
    """Return evenly spaced pixels of a uint8 image, [H, W] or [H, W, 3], as a copy [h, w, C], h and w at most 32."""
    height, width = image.shape[:2]
    rows, columns = -(-height // SAMPLE_SIDE), -(-width // SAMPLE_SIDE)
    # From the middle of each cell: the border of a frame is often dark, whatever is in it.
    sample = image[rows // 2 :: rows, columns // 2 :: columns]
    return (sample if image.ndim == 3 else sample[:, :, None]).copy()  # noqa: PLR2004 - colour


def find_fault(sample: np.ndarray, *, saturated: float, black: float, contrast: int) -> str | None:
    """Say in one sentence why a sample (as of ``sample_frame``) shows nothing, or return None.

    ``saturated`` and ``black``: largest share, 0..1, of values that may be at least ``SATURATED`` or at most ``BLACK``,
    over all channels. ``contrast``: least difference in grey levels between the 1st and the 99th percentile, in the
    channel where it is largest. Each limit itself still passes.
    """
    # Every frame waits for this, and few calls take less time than many: 7 us where a count of all levels took 22, and
    # 36 where it took 89 once other processes have had the core's caches.
    values = sample.tobytes()
    saturated_share = len(values.translate(None, _NOT_SATURATED)) / sample.size
    black_share = len(values.translate(None, _NOT_BLACK)) / sample.size
    if saturated_share > saturated:
        return _sentence("saturated", f"{saturated_share:.1%} of its values at {SATURATED} or more", f"{saturated:.1%}")
    if black_share > black:
        return _sentence("black", f"{black_share:.1%} of its values at {BLACK} or less", f"{black:.1%}")
    found = 0
    for channel in range(sample.shape[2]):
        found = max(found, _contrast(sample[:, :, channel]))
        if found >= contrast:
            return None
    return f"the frame is flat: expected a contrast of at least {contrast} grey levels, found {found}: {_ADVICE}"


def _contrast(channel: np.ndarray) -> int:
    """Return the grey levels between the 1st and the 99th percentile of one channel, uint8 [h, w]."""
    low, high = math.floor(OUTLIERS * channel.size), math.ceil((1 - OUTLIERS) * channel.size) - 1
    ordered = channel.flatten()
    ordered.partition((low, high))
    return int(ordered[high]) - int(ordered[low])


_ADVICE = "check lamp, lens and exposure time"


def _sentence(what: str, found: str, limit: str) -> str:
    return f"the frame is {what}: expected at most {limit}, found {found}: {_ADVICE}"
