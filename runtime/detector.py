"""What a detector author implements. Torch appears in annotations only, so that naming a detector costs nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from pydantic import BaseModel

    from runtime.checkpoint import Checkpoint
    from runtime.frame import Frame


def _silent(_done: int, _total: int, _what: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class MaskedFrame:
    """A frame of a defective part and where its defect is: ``mask`` bool [H, W], as large as the image."""

    frame: Frame
    mask: np.ndarray


@dataclass(frozen=True)
class DetectorContext:
    """What the caller lends a detector while it calibrates or extends.

    ``progress(done, total, what)`` may be called as often as liked. ``device`` is a torch device string. ``seed`` fixes
    every random choice: the same references, settings and seed give the same template, bit for bit, on one machine's
    CPU.

    For detectors that train, and ignored by others: ``textures``, pictures of foreign material to plant as synthetic
    defects (none: built-in ones), and ``defects``, a few real defects, both decoded when asked for; ``checkpoint``,
    where unfinished work is kept (None: nowhere); ``budget_s``, seconds training may take on this machine (None: as
    many steps as the settings say). With a budget the number of steps depends on the machine, and with it the template.
    """

    device: str = "cpu"
    seed: int = 0
    progress: Callable[[int, int, str], None] = _silent
    checkpoint: Checkpoint | None = None
    textures: Sequence[Frame] = ()
    defects: Sequence[MaskedFrame] = ()
    budget_s: float | None = None


@dataclass(frozen=True)
class TemplateContent:
    """What a detector learnt from its references; the store adds thresholds, golden frames and provenance.

    ``settings``: JSON object, the resolved settings the graph is built from.
    ``tensors``: name -> array (float32, float16, uint8, int16, int32 or bool), all the graph needs that was learnt.
    ``capacity`` and ``valid``: room for and number of inserted references (see ``Detector.bank``).
    ``map_shape``: (height, width) of the anomaly map.
    ``weights``: backbone weight files used, name -> sha256. ``statistics``: JSON object for the report.
    ``pool``: name -> array of the same dtypes that only ``extend`` needs, such as every reference's features where
    ``tensors`` hold a selection; it is stored apart, and a station does not read it: ``graph`` and ``bank`` must not
    need it.
    """

    settings: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    capacity: int
    valid: int
    map_shape: tuple[int, int]
    weights: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    pool: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class DetectorResult:
    """One frame's answer: the image score, and the anomaly map, float32 [h, w], higher = more anomalous, uncut."""

    anomaly_map: np.ndarray
    score: float


class Detector(ABC):
    """One way to find anomalies: subclass, register with ``edgead_register_detectors``; see docs/detector-plugin.md.

    A detector object holds no state of "the current image" and no template: everything comes in as an argument. Raise
    an ``EdgeadError`` with a sentence the user can act on; anything else is reported as this plugin's fault.
    """

    #: Name in station files and on the command line, a slug such as ``hetmm``.
    name: ClassVar[str]
    #: Version of the algorithm: goes into every template and every inspection.
    version: ClassVar[str]
    #: pydantic model of the settings; unknown keys must be refused (``extra="forbid"``), every field has a default.
    settings_model: ClassVar[type[BaseModel]]

    @abstractmethod
    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Learn from good frames (lazily decoded: ``references[i]`` reads the file).

        ``settings`` is an instance of ``settings_model``; the content returned carries its resolved values. Sizes may
        differ between frames. Must not depend on anything but its arguments.
        """

    @abstractmethod
    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> torch.nn.Module:
        """Return the module that inspects frames of one shape (H, W, C), C = 1 (grey) or 3 (RGB).

        ``forward(frames, *bank)``: frames uint8 [B, H, W, C], bank the tensors of ``bank(content)`` in order. Returns
        (anomaly_map float32 [B, h, w], score float32 [B]). Static shapes, no Python control flow on data:
        ``torch.export`` (strict) must take it whole. Building a graph for another frame shape must be cheap (share the
        backbone).
        """

    @abstractmethod
    def bank(self, content: TemplateContent) -> Mapping[str, torch.Tensor]:
        """Return the graph's template inputs, on the CPU, at fixed capacity, in the order ``forward`` takes them.

        Inserting a reference or swapping a version changes values, never shapes, so nothing is recompiled.
        """

    def leave_out(
        self, content: TemplateContent, bank: Mapping[str, torch.Tensor], index: int
    ) -> Mapping[str, torch.Tensor] | None:
        """Return ``bank`` as if reference ``index`` had not been among the references, or None if that is not possible.

        With it, held-out scores of the references need no extra calibration; without it calibration holds a part of the
        references back. ``bank`` itself must not change. The caller only reads the tensors returned, and is done with
        them before the next call, which may write over them.
        """
        del content, bank, index
        return None

    def unseen(self, content: TemplateContent) -> Sequence[int] | None:
        """Return which references nothing was trained on, or None: ``leave_out`` makes every reference one.

        Held-out scores are taken of these alone, where there are any: a network that has seen a part as good scores it
        low even when it has been left out of the bank.
        """
        del content
        return None

    def extend(
        self, content: TemplateContent, references: Sequence[Frame], context: DetectorContext
    ) -> TemplateContent | None:
        """Return the content with new good frames inserted, without retraining, or None if this detector cannot.

        ``content`` comes with its ``pool`` and must not change. Settings, weights and map shape stay what they are:
        the thresholds belong to them. Raises ``TemplateError`` where the weights here are not those of ``content``.
        """
        del content, references, context
        return None

    def training_pictures(
        self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext, count: int
    ) -> Sequence[MaskedFrame] | None:
        """Return the first ``count`` pictures a training on ``references`` looks at, or None: this detector shows none.

        As large and as varied as training sees them, each with the mask of its defect (no True: a good part); a frame's
        name says what was done to it. Behind `edgead defects preview --detector NAME`. Arguments as in ``calibrate``;
        raises ``ConfigError`` where these settings train nothing.
        """
        del references, settings, context, count
        return None

    def bench(
        self, progress: Callable[[int, int, str], None], *, device: str = "cpu", threads: int = 0, quick: bool = False
    ) -> dict[str, Any] | None:
        """Measure this detector's own arithmetic beside plainer ways to do it, or None if it has nothing to compare.

        Behind `edgead bench NAME`. Return a JSON object of figures, objects of figures and lists of them; everything
        in one run, because machines are noisy. ``threads`` 0 = one per core. ``quick``: sizes that only show that it
        runs.
        """
        del progress, device, threads, quick
        return None
