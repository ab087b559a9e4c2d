"""A frame's way to the GPU and its answer's way back: page-locked memory at fixed addresses, and one synchronisation.

A copy from or to ordinary memory waits for the GPU each time. From page-locked memory it is queued like everything
else, so that a frame costs the host one wait: for its answer. What lies at a fixed address can be replayed as part of a
captured CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Frame shapes whose buffers are kept: as many as engines are built for, for one frame and for several. A folder of
#: mixed sizes must not pile them up.
MOST_SHAPES = 8


class Staging:
    """Buffers of one engine; for one thread. They are made for the first frame of a shape and kept.

    ``device``: torch device; on a CPU the same copies are made through ordinary memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._frames: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._answers: dict[tuple[tuple[int, ...], torch.dtype, int], Tensor] = {}

    def upload(self, frames: Tensor) -> Tensor:
        """Return ``frames`` (uint8 [B, H, W, C] on the host) on the device, at the same address for the same shape.

        The copy is queued, not waited for; the next upload must come after the answer was downloaded.
        """
        shape = tuple(frames.shape)
        if shape not in self._frames:
            if len(self._frames) == MOST_SHAPES:
                self._frames.clear()
            self._frames[shape] = self._locked(shape, frames.dtype), torch.empty_like(frames, device=self.device)
        host, there = self._frames[shape]
        host.copy_(frames)
        there.copy_(host, non_blocking=True)
        return there

    def download(self, *answers: Tensor) -> tuple[Tensor, ...]:
        """Return the answers on the host, in memory of their own; waits for the device once, for all of them."""
        hosts = []
        for number, answer in enumerate(answers):
            key = tuple(answer.shape), answer.dtype, number
            if key not in self._answers:
                self._answers[key] = self._locked(key[0], answer.dtype)
            hosts.append(self._answers[key].copy_(answer, non_blocking=True))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return tuple(host.clone() for host in hosts)

    def _locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")
