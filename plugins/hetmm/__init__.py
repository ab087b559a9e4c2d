"""HETMM: hard-normal example-aware template mutual matching (Chen et al., IJCV 2024, arXiv 2303.16191).

Training-free. Every good frame becomes a sheet of unit feature vectors per layer; a frame is inspected by matching it
against the sheets in both directions within small windows. A template keeps all sheets, or the few that PTS chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from edgead import (
    ConfigError,
    Detector,
    DetectorContext,
    EvaluationProtocol,
    Frame,
    TemplateContent,
    TemplateError,
    hookimpl,
)
from plugins.backbones import WEIGHTS
from plugins.backbones.provenance import check_weights, weights_of
from plugins.hetmm.settings import HetmmSettings

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel
    from torch import Tensor, nn

    from plugins.hetmm.graph import Features, Matching
    from plugins.hetmm.leaving import SpareCopies


class Hetmm(Detector):
    """The ``hetmm`` detector.

    Keeps the modules of the last settings it saw, which any frame shape shares, and a copy of the last bank given to
    ``leave_out`` while that bank lives; no image, no template.
    """

    name = "hetmm"
    version = "2"  # the bank is matched in the number format it is stored in
    settings_model = HetmmSettings

    def __init__(self) -> None:
        self._features: tuple[tuple[str, str, tuple[str, ...], str], Features] | None = None
        self._matching: tuple[HetmmSettings, Matching] | None = None
        self._spare_copies: SpareCopies | None = None

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Extract every reference's sheets, choose what is "auto" from them; see ``Detector.calibrate``."""
        import torch

        from plugins.hetmm.auto import choose
        from plugins.hetmm.graph import feature_shapes
        from plugins.hetmm.templates import keep

        wanted = cast("HetmmSettings", settings)
        if not references:
            raise ConfigError("hetmm: expected at least one good frame, found none")
        with torch.inference_mode():
            sheets = self._sheets(wanted, references, context)
            resolved, measured = choose(wanted, sheets, context.progress)
            stored = _stored(resolved, sheets)
            del sheets
            kept = keep(resolved, stored, context.progress)
        return TemplateContent(
            settings=resolved.model_dump(mode="json"),
            tensors=kept.tensors,
            capacity=kept.capacity,
            valid=kept.valid,
            map_shape=(resolved.image_size, resolved.image_size),
            weights=weights_of(resolved.backbone),
            statistics={
                "feature_shapes": [list(shape) for shape in feature_shapes(resolved)],
                "references": len(references),
                **measured,
                **kept.statistics,
            },
            pool=kept.pool,
        )

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> nn.Module:
        """Build the graph for one frame shape around the shared modules; see ``Detector.graph``."""
        from plugins.hetmm.graph import HetmmGraph, Matching
        from plugins.resize import Resize

        settings = _settings(content)
        check_weights(self.name, settings.backbone, content.weights)
        if self._matching is None or self._matching[0] != settings:
            self._matching = (settings, Matching(settings).eval())
        return HetmmGraph(Resize(frame_shape, settings.image_size), self._load(settings), self._matching[1])

    def bank(self, content: TemplateContent) -> Mapping[str, Tensor]:
        """Pack the sheets tile by tile, spare room filled with copies of sheet 0, not zeros.

        They keep the stored number format: float16 takes half the memory and the same time, and moves no cosine by more
        than 5e-4; products and sums are float32 all the same.
        """
        import torch

        from plugins.matching import pack

        packed: dict[str, Tensor] = {}
        for name in _names(_settings(content)):
            sheets = torch.from_numpy(content.tensors[name])
            if sheets.shape[0] != content.valid:
                raise TemplateError(
                    f"hetmm: expected {content.valid} sheets in {name}, found {sheets.shape[0]}: calibrate again"
                )
            spare = content.capacity - content.valid
            packed[name] = pack(torch.cat([sheets, sheets[:1].expand(spare, -1, -1, -1)]) if spare else sheets)
        return packed

    def leave_out(
        self, content: TemplateContent, bank: Mapping[str, Tensor], index: int
    ) -> Mapping[str, Tensor] | None:
        """Cover what came from reference ``index``, which no maximum sees; None for a bank of one sheet.

        The tensors returned are good until the next call: the same copy of the bank is used again.
        """
        import torch

        from plugins.hetmm.leaving import SpareCopies, cover_sheets, cover_slots

        references = content.statistics.get("references", content.valid)
        if not 0 <= index < references:
            raise ValueError(f"hetmm: expected a reference 0..{references - 1} to leave out, found {index}")
        if content.valid < 2:  # noqa: PLR2004 - nothing would be left
            return None
        self._spare_copies = self._spare_copies or SpareCopies()
        # The spare room holds copies of sheet 0, which must go with it.
        gone = [index, *range(content.valid, content.capacity)] if index == 0 else [index]
        left: dict[str, Tensor] = {}
        for name, tiles in bank.items():
            slots = content.tensors.get(name.replace("sheets.", "slots."))
            chosen = slots is not None
            cover = cover_slots(torch.from_numpy(slots), index) if chosen else cover_sheets(tiles, gone)
            left[name] = self._spare_copies.without(name, tiles, cover)
        return left

    def extend(
        self, content: TemplateContent, references: Sequence[Frame], context: DetectorContext
    ) -> TemplateContent:
        """Insert the references' sheets; see ``plugins.hetmm.templates.add`` for what is the same as a calibration."""
        import torch

        from plugins.hetmm.templates import add

        settings = _settings(content)
        check_weights(self.name, settings.backbone, content.weights)
        with torch.inference_mode():
            added = _stored(settings, self._sheets(settings, references, context))
            kept = add(settings, content, added, context.progress)
        inserted = content.statistics.get("references", content.valid) + len(references)
        return replace(
            content,
            tensors=kept.tensors,
            capacity=kept.capacity,
            valid=kept.valid,
            statistics={**content.statistics, **kept.statistics, "references": inserted},
            pool=kept.pool,
        )

    def bench(
        self, progress: Callable[[int, int, str], None], *, device: str = "cpu", threads: int = 0, quick: bool = False
    ) -> dict[str, Any]:
        """Measure matching beside shifted products and unfolding at the paper's shapes; see ``plugins.hetmm.bench``."""
        import os

        from plugins.hetmm.bench import bench_hetmm

        return bench_hetmm(progress, threads=threads or len(os.sched_getaffinity(0)), quick=quick, device=device)

    def _sheets(self, settings: HetmmSettings, references: Sequence[Frame], context: DetectorContext) -> list[Tensor]:
        """Return per layer float32 [N, C, H, W] unit vectors on the CPU."""
        import torch

        from plugins.hetmm.graph import feature_shapes
        from plugins.resize import Resize

        features = self._load(settings, context.device).to(context.device)
        sheets = [torch.empty((len(references), *shape)) for shape in feature_shapes(settings)]
        for index, reference in enumerate(references):
            image = reference.image if reference.image.ndim == 3 else reference.image[:, :, None]  # noqa: PLR2004 - grey
            frames = torch.from_numpy(image)[None].to(context.device)
            for layer, tap in zip(sheets, features(Resize(image.shape, settings.image_size)(frames)), strict=True):
                layer[index] = tap[0].cpu()
            context.progress(index + 1, len(references), "extracting references")
        return sheets

    def _load(self, settings: HetmmSettings, device: str = "cpu") -> Features:
        from plugins.hetmm.graph import Features

        # Engines share the modules: another device's must be others, or theirs would move under them.
        key = (settings.backbone, settings.norm_std, settings.layer_names, device)
        if self._features is None or self._features[0] != key:
            self._features = (key, Features(settings).eval())
        return self._features[1]


def _settings(content: TemplateContent) -> HetmmSettings:
    settings = HetmmSettings.model_validate(dict(content.settings))
    if not settings.resolved:
        raise TemplateError("hetmm: the template's settings are not resolved: calibrate again")
    return settings


def _names(settings: HetmmSettings) -> list[str]:
    return [f"sheets.{layer}" for layer in settings.layer_names]


def _stored(settings: HetmmSettings, sheets: list[Tensor]) -> list[torch.Tensor]:
    import torch

    return [sheet.to(getattr(torch, settings.bank_dtype)) for sheet in sheets]


@hookimpl
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Bring ``hetmm``."""
    register("hetmm", Hetmm)


@hookimpl
def edgead_register_weights(register: Callable[[Any], None]) -> None:
    """Make the backbones' weight files known."""
    for weights in WEIGHTS:
        register(weights)


@hookimpl
def edgead_register_protocols(register: Callable[[EvaluationProtocol], None]) -> None:
    """Bring ``hetmm-paper``."""
    from plugins.hetmm.paper import PROTOCOL

    register(PROTOCOL)
