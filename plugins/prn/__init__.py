"""PRN: anomaly segmentation by prototypical residual networks (Zhang et al., CVPR 2023, arXiv 2212.02031).

A frame's feature maps are compared, as whole maps, with the nearest of a few mean maps of good frames; what differs,
together with the features themselves, goes through a trained network that says for every pixel how likely it is
anomalous. Good frames are enough: defects are planted into them; a few real ones help.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from edgead import Detector, DetectorContext, Frame, MaskedFrame, TemplateContent, TemplateError, hookimpl
from plugins.backbones.provenance import check_weights, weights_of
from plugins.prn.settings import PrnSettings

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn

    from plugins.prn.features import Features
    from plugins.prn.graph import Segmentation


class Prn(Detector):
    """The ``prn`` detector.

    Keeps the encoder of the last settings it saw, and what it built around the last content while that lives, so that
    graphs of other frame shapes share it.
    """

    name = "prn"
    version = "1"
    settings_model: ClassVar[type[PrnSettings]] = PrnSettings

    def __init__(self) -> None:
        self._features: tuple[tuple[str, str], Features] | None = None
        self._built: tuple[weakref.ref[TemplateContent], Segmentation] | None = None

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Cluster references into prototypes and train the network; see ``Detector.calibrate``."""
        import torch

        from plugins.prn.learning import learn
        from plugins.prn.templates import learnt_tensors

        wanted = cast("PrnSettings", settings)
        features = self._load(wanted, context.device).to(context.device)
        with torch.no_grad():
            resolved, learnt, statistics = learn(wanted, references, features, context)
        count = max(len(each.maps) for each in learnt.prototypes)
        return TemplateContent(
            settings=resolved.model_dump(mode="json"),
            tensors=learnt_tensors(resolved, learnt),
            capacity=count + resolved.spare,
            valid=count,
            map_shape=(resolved.image_size, resolved.image_size),
            weights=weights_of(resolved.backbone),
            statistics=statistics,
        )

    def training_pictures(
        self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext, count: int
    ) -> Sequence[MaskedFrame]:
        """Draw the first pictures of a training; see ``Detector.training_pictures``."""
        from plugins.prn.learning import training_pictures

        return training_pictures(cast("PrnSettings", settings), references, context, count)

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> nn.Module:
        """Build the graph for one frame shape around the shared modules; see ``Detector.graph``."""
        from plugins.prn.graph import PrnGraph, Segmentation
        from plugins.prn.lanczos import LanczosResize
        from plugins.prn.settings import score_pixels_of
        from plugins.prn.templates import network_of

        settings = self._settings(content)
        check_weights(self.name, settings.backbone, content.weights)
        if self._built is None or self._built[0]() is not content:
            network = network_of(settings, content.tensors)
            segmentation = Segmentation(self._load(settings), network, score_pixels_of(settings)).eval()
            self._built = (weakref.ref(content), segmentation)
        return PrnGraph(LanczosResize(frame_shape, settings.image_size), self._built[1]).eval()

    def bank(self, content: TemplateContent) -> Mapping[str, Tensor]:
        """Lay out the prototypes; see ``plugins.prn.templates.bank_of``."""
        from plugins.prn.templates import bank_of

        return bank_of(self._settings(content), content)

    def unseen(self, content: TemplateContent) -> Sequence[int] | None:
        """Return the references that prototypes and training spared; None where there were too few to spare any."""
        return content.statistics.get("unseen") or None

    def leave_out(
        self, content: TemplateContent, bank: Mapping[str, Tensor], index: int
    ) -> Mapping[str, Tensor] | None:
        """Return ``bank`` as it is for a reference that nothing has seen; None for one that the network has learnt."""
        return bank if index in (self.unseen(content) or ()) else None

    def extend(
        self, content: TemplateContent, references: Sequence[Frame], context: DetectorContext
    ) -> TemplateContent:
        """Move the prototypes, or add some, so that new good frames are near one; the network stays as it is.

        One frame after the other, in their order: near a prototype it moves that mean, elsewhere it becomes one.
        """
        import torch

        from plugins.prn.features import encode, resized
        from plugins.prn.settings import SCALES
        from plugins.prn.templates import inserted, prototype_tensors, prototypes_of

        settings = self._settings(content)
        check_weights(self.name, settings.backbone, content.weights)
        features = self._load(settings, context.device).to(context.device)
        prototypes = prototypes_of(settings, content)
        with torch.no_grad():
            for number in range(len(references)):
                image = resized(references[number].image, settings.image_size)
                taps = encode([image], features, context.device)[:SCALES]
                prototypes = [inserted(each, tap[0].cpu()) for each, tap in zip(prototypes, taps, strict=True)]
                context.progress(number + 1, len(references), "inserting frames")
        count = max(len(each.maps) for each in prototypes)
        statistics = {
            **content.statistics,
            "references": content.statistics["references"] + len(references),
            "prototypes": [len(each.maps) for each in prototypes],
        }
        return replace(
            content,
            tensors={**content.tensors, **prototype_tensors(settings, prototypes)},
            capacity=max(content.capacity, count),
            valid=count,
            statistics=statistics,
        )

    def _settings(self, content: TemplateContent) -> PrnSettings:
        settings = self.settings_model.model_validate(dict(content.settings))
        if not settings.resolved:
            raise TemplateError("prn: the template's settings are not resolved: calibrate again")
        return settings

    def _load(self, settings: PrnSettings, device: str = "cpu") -> Features:
        from plugins.prn.features import Features

        # Engines share the modules: another device's must be others, or theirs would move under them.
        key = (settings.backbone, device)
        if self._features is None or self._features[0] != key:
            self._features = (key, Features(settings))
        return self._features[1]


@hookimpl
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Bring ``prn``."""
    register(Prn.name, Prn)


@hookimpl
def edgead_register_weights(register: Callable[[Any], None]) -> None:
    """Make the backbones' weight files known."""
    from plugins.backbones import WEIGHTS

    for weights in WEIGHTS:
        register(weights)
