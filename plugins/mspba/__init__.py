"""MSPBA: multi-scale patch embeddings learnt from good frames, compared with their nearest (Tsai et al., WACV 2022).

Patches of 64, 32 and 16 pixels are embedded by heads that were trained to tell in which direction a second patch lies.
A patch is as anomalous as its embedding is far from those of the references; a template keeps a cover of these.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from edgead import ConfigError, Detector, DetectorContext, Frame, TemplateContent, TemplateError, hookimpl
from plugins.backbones.provenance import check_weights, weights_of
from plugins.mspba.settings import MspbaSettings

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn

    from plugins.mspba.embedding import Encoder
    from plugins.mspba.graph import Comparison


class Mspba(Detector):
    """The ``mspba`` detector.

    Keeps what it built around the last content while that lives, so that graphs of other frame shapes share it.
    """

    name = "mspba"
    version = "1"
    settings_model = MspbaSettings

    def __init__(self) -> None:
        self._built: tuple[weakref.ref[TemplateContent], Encoder, Comparison] | None = None

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Train the encoders, embed every reference, keep a cover of the embeddings; see ``Detector.calibrate``."""
        import torch

        from plugins.mspba.learning import learn
        from plugins.mspba.templates import bank_tensors

        wanted = cast("MspbaSettings", settings)
        if not references:
            raise ConfigError("mspba: expected at least one good frame, found none")
        with torch.no_grad():
            learnt, embeddings, statistics = learn(references, wanted, context)
            rows = bank_tensors(wanted, embeddings, statistics.get("unseen", ()), context)
        return TemplateContent(
            settings=wanted.model_dump(mode="json"),
            tensors=learnt | rows,
            # The room is one of rows, and a reference may need none: as many as one row each.
            capacity=len(references) + wanted.spare_rows,
            valid=len(references),
            map_shape=(wanted.image_size, wanted.image_size),
            weights=weights_of(wanted.backbone),
            statistics={"references": len(references), **statistics},
        )

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> nn.Module:
        """Build the graph for one frame shape around the shared modules; see ``Detector.graph``."""
        from plugins.mspba.graph import Comparison, MspbaGraph
        from plugins.mspba.resize import BicubicResize

        settings = _settings(content)
        check_weights(self.name, settings.backbone, content.weights)
        if self._built is None or self._built[0]() is not content:
            self._built = (weakref.ref(content), _encoder(settings, content), Comparison(settings).eval())
        return MspbaGraph(BicubicResize(frame_shape, settings.image_size), self._built[1], self._built[2])

    def bank(self, content: TemplateContent) -> Mapping[str, Tensor]:
        """Lay out the embeddings kept; see ``plugins.mspba.templates.bank_of``."""
        from plugins.mspba.templates import bank_of

        return bank_of(content)

    def unseen(self, content: TemplateContent) -> Sequence[int] | None:
        """Return the references that training spared; None without training, or where there were too few to spare."""
        return content.statistics.get("unseen") or None

    def leave_out(
        self, content: TemplateContent, bank: Mapping[str, Tensor], index: int
    ) -> Mapping[str, Tensor] | None:
        """Mark the rows of reference ``index`` as void; None for a single reference.

        Where it stood for others' embeddings, too, these have lost their nearest row: its score is somewhat high, never
        low.
        """
        from plugins.mspba.templates import without

        if not 0 <= index < content.valid:
            raise ValueError(f"mspba: expected a reference 0..{content.valid - 1} to leave out, found {index}")
        return without(content, bank, index) if content.valid > 1 else None

    def extend(
        self, content: TemplateContent, references: Sequence[Frame], context: DetectorContext
    ) -> TemplateContent:
        """Embed new references as they are and add what lies farther from the bank than its radius: no score rises."""
        import torch

        from plugins.mspba.embedding import Resizes
        from plugins.mspba.templates import added, embed, levels_of

        settings = _settings(content)
        check_weights(self.name, settings.backbone, content.weights)
        with torch.no_grad():
            encoder = _encoder(settings, content).to(context.device)
            levels = levels_of(references, Resizes(settings.image_size, context.device), context)
            rows = added(content.tensors, embed(levels, encoder, context), content.valid)
        count = content.valid + len(references)
        # Another capacity tells that the shapes are others.
        grown = int(rows["room"][0] > content.tensors["room"][0])
        return replace(
            content,
            tensors={**content.tensors, **rows},
            capacity=max(content.capacity + grown, count),
            valid=count,
            statistics={**content.statistics, "references": count},
        )


def _settings(content: TemplateContent) -> MspbaSettings:
    return MspbaSettings.model_validate(dict(content.settings))


def _encoder(settings: MspbaSettings, content: TemplateContent) -> Encoder:
    from plugins.mspba.embedding import encoder_of

    try:
        return encoder_of(settings, content.tensors)
    except RuntimeError as error:
        raise TemplateError(f"mspba: the template's networks do not fit its settings: {error}") from error


@hookimpl
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Bring ``mspba``."""
    register(Mspba.name, Mspba)


@hookimpl
def edgead_register_weights(register: Callable[[Any], None]) -> None:
    """Make the backbones' weight files known."""
    from plugins.backbones import WEIGHTS

    for weights in WEIGHTS:
        register(weights)
