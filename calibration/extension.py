"""What came of extending a template: records, the thresholds it keeps, and what the operator must be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from calibration.calibrate import HELD_OUT, damaged_half
from runtime.detector import TemplateContent
from runtime.engines.selftest import ABSOLUTE, RELATIVE
from runtime.store.manifest import Reference, Thresholds
from runtime.store.template import GoldenFrame, Template


@dataclass(frozen=True, kw_only=True)
class ExtensionOptions:
    """How to extend.

    ``everything``: insert frames that have nothing to teach, too. ``held_out``: most frames scored where thresholds are
    set anew. ``device``, ``threads`` and ``seed`` as in ``Engine`` and ``DetectorContext``.
    """

    everything: bool = False
    held_out: int = HELD_OUT
    device: str = "cpu"
    threads: int = 0
    seed: int = 0


@dataclass(frozen=True)
class NewFrame:
    """A new frame: its image score with the present template and with the extended one (None: nothing was inserted)."""

    name: str
    before: float
    after: float | None
    inserted: bool


@dataclass(frozen=True)
class Extended:
    """Everything the new template is made of, before it is stored; ``references``: the parent's, then the new ones."""

    content: TemplateContent
    thresholds: Thresholds
    held_out_scores: tuple[float, ...]
    golden: tuple[GoldenFrame, ...]
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Extension:
    """What came of extending ``parent``.

    ``frames``: every new frame that was scored. ``skipped``: why not inserted -> names. ``made``: None when no frame
    was inserted. ``warnings``: sentences the operator must read before the new template runs.
    """

    parent: Template
    frames: tuple[NewFrame, ...]
    skipped: Mapping[str, tuple[str, ...]]
    made: Extended | None
    warnings: tuple[str, ...]

    @property
    def hides_damage(self) -> bool:
        """Tell whether damage planted into golden frames was found before and is not any more."""
        return self.made is not None and _hidden(self.parent, self.made) > 0


def kept_thresholds(template: Template, frames: Sequence[NewFrame], golden: Sequence[GoldenFrame]) -> Thresholds:
    """Return the parent's thresholds, the rule saying whose they are.

    The bound they promise is kept with them unless a frame or golden frame scores higher than it did: new references
    then did more than explain what is good, and nothing is promised (None).
    """
    kept = template.manifest.thresholds
    if kept.image is None:
        return kept
    rule = kept.rule if _KEPT in kept.rule else f"{kept.rule}{_KEPT}{template.digest[:12]}"
    bound = None if _risen(template, frames, golden) else kept.bound
    return kept.model_copy(update={"rule": rule, "bound": bound})


_KEPT = ", kept from "
#: Frames a warning names; all are in the list of scores.
_NAMED = 5


def warnings_of(template: Template, frames: Sequence[NewFrame], made: Extended) -> Iterator[str]:
    """Yield what the operator must read: possible defects, defects no longer seen, a promise lost, a larger bank."""
    cut = template.manifest.thresholds.image
    if not template.manifest.held_out_scores:
        yield "the template has no held-out scores to compare with: every new frame was taken as worth inserting"
    if cut is not None and (above := [frame.name for frame in frames if frame.inserted and frame.before > cut]):
        named = f"{', '.join(above[:_NAMED])}{' and more' if above[_NAMED:] else ''}"
        yield (
            f"{len(above)} of {len(frames)} new frames score above the threshold {cut:.4g} ({named}): look at each: "
            "a defect that is inserted is not found any more"
        )
    if hidden := _hidden(template, made):
        yield (
            f"{hidden} of {len(damaged_half(made.golden))} golden frames with planted damage were NotOK and are OK "
            "with the new frames: damage of that size would now pass: look at the new frames, and only if they are "
            "good activate the template by `edgead templates activate`"
        )
    kept = made.thresholds.rule.rpartition(_KEPT)[1]
    if kept and (risen := _risen(template, frames, made.golden)):
        yield (
            f"{risen} of {len(frames) + len(made.golden)} new and golden frames score higher than before: the kept "
            "thresholds promise no false-reject rate any more; give the former references to set them anew"
        )
    before, after = template.manifest.bank.capacity, made.content.capacity
    if after != before:
        yield f"capacity {before} -> {after}: compiled graphs must be rebuilt"


def _hidden(template: Template, made: Extended) -> int:
    """Count planted damage that was above the threshold and is no more."""
    old, new = template.manifest.thresholds.image, made.thresholds.image
    if old is None or new is None:
        return 0
    pairs = zip(damaged_half(template.golden()), damaged_half(made.golden), strict=True)
    return sum(was.score > old and now.score <= new for was, now in pairs)


def _risen(template: Template, frames: Sequence[NewFrame], golden: Sequence[GoldenFrame]) -> int:
    """Count frames and golden frames that score higher than before, by more than rounding."""
    pairs = [(frame.before, frame.after) for frame in frames if frame.after is not None]
    pairs += [(was.score, now.score) for was, now in zip(template.golden(), golden, strict=True)]
    return sum(after > before + RELATIVE * abs(before) + ABSOLUTE for before, after in pairs)
