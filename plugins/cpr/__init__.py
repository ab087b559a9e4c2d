"""CPR, CPR-fast, CPR-faster: anomaly detection by cascade patch retrieval (Li et al., IEEE TIP 2024, arXiv 2308.06748).

A frame is first matched as a whole: the references most like it are found by block-wise histograms of visual words.
Then every place of it is compared with the same place of those few references, in local features that may be trained to
tell normal from abnormal, and weighted by how much the place belongs to the part. Time does not grow with the bank.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from edgead import (
    ConfigError,
    Detector,
    DetectorContext,
    EvaluationProtocol,
    Frame,
    MaskedFrame,
    TemplateContent,
    TemplateError,
    hookimpl,
)
from plugins.backbones.provenance import check_weights, weights_of
from plugins.cpr.settings import CprFasterSettings, CprFastSettings, CprSettings

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn

    from plugins.cpr.graph import Branches, Comparison, Features


class Cpr(Detector):
    """The ``cpr`` detector; its two faster forms differ in their settings only.

    Keeps the backbone of the last settings it saw, and what it built around the last content while that lives, so that
    graphs of other frame shapes share it.
    """

    name = "cpr"
    version = "3"
    settings_model: ClassVar[type[CprSettings]] = CprSettings

    def __init__(self) -> None:
        self._features: tuple[tuple[str, tuple[str, ...], str], Features] | None = None
        self._built: tuple[weakref.ref[TemplateContent], Branches, Comparison] | None = None

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Learn codebook, foreground and heads, then encode every reference; see ``Detector.calibrate``."""
        import torch

        from plugins.cpr.graph import Branches
        from plugins.cpr.learning import Encoded, learn
        from plugins.cpr.templates import encode, learnt_tensors

        wanted = cast("CprSettings", settings)
        if not references:
            raise ConfigError(f"{self.name}: expected at least one good frame, found none")
        features = self._load(wanted, context.device).to(context.device)
        with torch.no_grad():
            encoded = Encoded(references, features, wanted, context)
            resolved, learnt, statistics = learn(wanted, encoded)
            branches = Branches(resolved, learnt).eval().to(context.device)
            rows = encode(resolved, branches, encoded)
        return TemplateContent(
            settings=resolved.model_dump(mode="json"),
            tensors=learnt_tensors(resolved, learnt) | rows,
            # Room for as many as are compared, so that the first few insertions change no shape.
            capacity=max(len(references) + resolved.spare, resolved.nearest),
            valid=len(references),
            map_shape=(resolved.image_size, resolved.image_size),
            weights=weights_of(resolved.backbone),
            statistics=statistics,
        )

    def training_pictures(
        self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext, count: int
    ) -> Sequence[MaskedFrame]:
        """Settle all that comes before training and draw its pictures; see ``Detector.training_pictures``."""
        import torch

        from plugins.cpr.learning import Encoded, training_pictures

        wanted = cast("CprSettings", settings)
        features = self._load(wanted, context.device).to(context.device)
        with torch.no_grad():
            return training_pictures(wanted, Encoded(references, features, wanted, context), count)

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> nn.Module:
        """Build the graph for one frame shape around the shared modules; see ``Detector.graph``."""
        from plugins.cpr.graph import Branches, Comparison, CprGraph
        from plugins.cpr.templates import learnt_of
        from plugins.resize import PlainResize

        settings = self._settings(content)
        check_weights(self.name, settings.backbone, content.weights)
        if self._built is None or self._built[0]() is not content:
            branches = Branches(settings, learnt_of(settings, content.tensors)).eval()
            self._built = (weakref.ref(content), branches, Comparison(settings).eval())
        resize = PlainResize(frame_shape, settings.image_size)
        return CprGraph(resize, self._load(settings), self._built[1], self._built[2])

    def bank(self, content: TemplateContent) -> Mapping[str, Tensor]:
        """Lay out what is kept of the references; see ``plugins.cpr.templates.bank_of``."""
        from plugins.cpr.templates import bank_of

        return bank_of(self._settings(content), content)

    def unseen(self, content: TemplateContent) -> Sequence[int] | None:
        """Return the references that training spared; None without heads, or where there were too few to spare."""
        if min(self._settings(content).raw_shares) == 1:
            return None  # training chose none of what it learnt
        return content.statistics.get("unseen") or None

    def leave_out(
        self, content: TemplateContent, bank: Mapping[str, Tensor], index: int
    ) -> Mapping[str, Tensor] | None:
        """Mark the row of reference ``index`` as empty, so that it is never chosen; None for a bank of one.

        What was learnt stays what it is, this reference having been seen: with trained heads its score is somewhat low.
        """
        from plugins.cpr.grb import EMPTY

        if not 0 <= index < content.valid:
            raise ValueError(f"{self.name}: expected a reference 0..{content.valid - 1} to leave out, found {index}")
        if content.valid < 2:  # noqa: PLR2004 - nothing would be left
            return None
        empty = bank["empty"].clone()
        empty[index] = EMPTY
        return {**bank, "empty": empty}

    def extend(
        self, content: TemplateContent, references: Sequence[Frame], context: DetectorContext
    ) -> TemplateContent:
        """Encode new references with what was learnt and append them: the same bits as encoding all of them again."""
        import numpy as np
        import torch

        from plugins.cpr.graph import Branches
        from plugins.cpr.learning import Encoded
        from plugins.cpr.templates import encode, learnt_of, reference_names

        settings = self._settings(content)
        check_weights(self.name, settings.backbone, content.weights)
        features = self._load(settings, context.device).to(context.device)
        with torch.no_grad():
            branches = Branches(settings, learnt_of(settings, content.tensors)).eval().to(context.device)
            added = encode(settings, branches, Encoded(references, features, settings, context))
        rows = {name: np.concatenate((content.tensors[name], added[name])) for name in reference_names(settings)}
        count = content.valid + len(references)
        return replace(
            content,
            tensors={**content.tensors, **rows},
            capacity=max(content.capacity, count),
            valid=count,
            statistics={**content.statistics, "references": count},
        )

    def bench(
        self, progress: Callable[[int, int, str], None], *, device: str = "cpu", threads: int = 0, quick: bool = False
    ) -> dict[str, Any]:
        """Measure every stage beside the plain form of the definition; see ``plugins.cpr.bench``."""
        import os

        from plugins.cpr.bench import bench_cpr

        count = threads or len(os.sched_getaffinity(0))
        return bench_cpr(self.settings_model(), progress, threads=count, quick=quick, device=device)

    def _settings(self, content: TemplateContent) -> CprSettings:
        settings = self.settings_model.model_validate(content.settings)
        if not settings.resolved:
            raise TemplateError(f"{self.name}: the template's settings are not resolved: calibrate again")
        return settings

    def _load(self, settings: CprSettings, device: str = "cpu") -> Features:
        from plugins.cpr.graph import Features

        # Engines share the modules: another device's must be others, or theirs would move under them.
        key = (settings.backbone, settings.layer_names, device)
        if self._features is None or self._features[0] != key:
            self._features = (key, Features(settings).eval())
        return self._features[1]


class CprFast(Cpr):
    """The ``cpr-fast`` detector: DenseNet201, 64 channels."""

    name = "cpr-fast"
    settings_model = CprFastSettings


class CprFaster(Cpr):
    """The ``cpr-faster`` detector: EfficientNet-Lite0, 16 channels."""

    name = "cpr-faster"
    settings_model = CprFasterSettings


@hookimpl
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Bring ``cpr``, ``cpr-fast`` and ``cpr-faster``."""
    for detector in (Cpr, CprFast, CprFaster):
        register(detector.name, detector)


@hookimpl
def edgead_register_weights(register: Callable[[Any], None]) -> None:
    """Make the backbones' weight files known."""
    from plugins.backbones import WEIGHTS

    for weights in WEIGHTS:
        register(weights)


@hookimpl
def edgead_register_protocols(register: Callable[[EvaluationProtocol], None]) -> None:
    """Bring ``cpr-paper``, ``cpr-fast-paper`` and ``cpr-faster-paper``."""
    from plugins.cpr.paper import PROTOCOLS

    for protocol in PROTOCOLS:
        register(protocol)
