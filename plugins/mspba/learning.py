"""From good frames to encoders and embeddings, in order: resize, mean image, training, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plugins.mspba.embedding import Encoder, Planes, Resizes, learnt_tensors, trunk_of
from plugins.mspba.encoders import heads_of
from plugins.mspba.templates import embed, levels_of, mean_image

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from edgead import DetectorContext, Frame
    from plugins.mspba.settings import MspbaSettings


def learn(
    references: Sequence[Frame], settings: MspbaSettings, context: DetectorContext
) -> tuple[dict[str, np.ndarray], list[Tensor], dict[str, Any]]:
    """Return (learnt arrays of a content, embeddings of all references per scale, statistics)."""
    levels = levels_of(references, Resizes(settings.image_size, context.device), context)
    mean = mean_image(levels) if settings.subtracts_mean else None
    backbone = trunk_of(settings).to(context.device)
    heads, trained = heads_of(settings), None
    statistics: dict[str, Any] = {}
    encoder = Encoder(settings, backbone, heads, mean).to(context.device).eval()
    # A single reference can be learnt from: every patch pair comes from one frame.
    if settings.train != "none":
        from plugins.mspba.training import train_encoders

        planes = Planes(levels, encoder.normalise)
        heads, trained, statistics = train_encoders(settings, planes, backbone, context)
        encoder = Encoder(settings, backbone, heads, mean).to(context.device).eval()
    return learnt_tensors(settings, heads, trained, mean), embed(levels, encoder, context), statistics
