"""How an engine's work reaches the GPU: enqueued anew for every frame, or captured once as a CUDA graph and replayed.

torch-TensorRT's own graph mode copies every input, the bank too, into buffers of its own at every call. Captured here,
the graph reads the bank where it lies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch

from runtime.errors import EngineError

log = logging.getLogger("edgead.worker")

#: Enqueues one inference on the CUDA stream of the given handle; false where TensorRT refuses.
Enqueue = Callable[[int], bool]


class Launch(Protocol):
    """Puts an inference onto the caller's current stream; does not wait for it."""

    def __call__(self, enqueue: Enqueue) -> None:
        """Launch with addresses as they are; ``EngineError`` where TensorRT refuses."""

    def forget(self) -> None:
        """Forget what was captured: an address has changed."""


class Enqueued:
    """Every inference is enqueued by TensorRT."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def __call__(self, enqueue: Enqueue) -> None:
        """Launch; see ``Launch``."""
        _checked(enqueue(torch.cuda.current_stream(self._device).cuda_stream))

    def forget(self) -> None:
        """Nothing is kept."""


class Captured:
    """The first inference is enqueued, the second captured, all later ones replayed: one call to the driver each.

    An engine that cannot be captured is enqueued ever after, with a line in the log.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._plain = Enqueued(device)
        self._stream: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = self._refused = False

    def __call__(self, enqueue: Enqueue) -> None:
        """Launch; see ``Launch``."""
        if self._refused or not self._warm:
            # TensorRT sets things up at the first call, which a capture must not see.
            self._plain(enqueue)
            self._warm = True
            return
        if self._graph is None:
            self._capture(enqueue)
        if self._graph is None:
            self._plain(enqueue)
        else:
            self._graph.replay()

    def forget(self) -> None:
        """Capture anew: the next inference is enqueued, the one after it captured."""
        self._graph, self._warm = None, False

    def _capture(self, enqueue: Enqueue) -> None:
        stream = self._stream = self._stream or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(graph, stream=stream):
                _checked(enqueue(stream.cuda_stream))
        except (RuntimeError, EngineError) as error:
            log.warning("TensorRT: frames are enqueued one by one, the engine cannot be captured: %s", error)
            self._refused = True
            return
        self._graph = graph


def _checked(done: bool) -> None:
    if not done:
        raise EngineError("tensorrt: expected the engine to run, found that TensorRT refused: see its log above")
