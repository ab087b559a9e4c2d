"""Maps in half precision, as numpy rounds them bit for bit, in a tenth of the time numpy takes for it.

320 x 320 values: numpy 160 us, one by one in software; torch, which has the processor do it, 17.
"""

from __future__ import annotations

import numpy as np
import torch

#: Fewer values than torch shares out among threads (32,768): waking them takes longer than converting these.
PIECE = 32_000


def to_float16(values: np.ndarray) -> np.ndarray:
    """Return a copy of finite float32 values of any shape as float16, rounded to the nearest, ties to even."""
    made = np.empty(values.shape, np.float16)
    flat = np.ascontiguousarray(values).reshape(-1)
    if not flat.flags.writeable:  # torch warns of those, though it only reads
        flat = flat.copy()
    here, there = torch.from_numpy(flat), torch.from_numpy(made.reshape(-1))
    for start in range(0, flat.size, PIECE):
        there[start : start + PIECE].copy_(here[start : start + PIECE])
    return made
