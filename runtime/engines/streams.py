"""Whose work a GPU takes up first: CUDA streams of two priorities. Never run on a GPU so far.

A stream's priority orders work within what the driver runs at the same time: one process, or the processes of one
MPS server. Without MPS processes take turns on a GPU, whatever their streams say.
"""

from __future__ import annotations

import torch

#: A camera's ``priority`` -> CUDA's: the lower number goes first, 0 is the lowest there is.
PRIORITIES = {"normal": -1, "low": 0}


def stream_of(priority: str, device: torch.device) -> torch.cuda.Stream:
    """Return a new stream on ``device`` for a key of ``PRIORITIES``; it begins after what is queued there now."""
    stream = torch.cuda.Stream(device, priority=PRIORITIES[priority])  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream
