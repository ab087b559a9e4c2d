"""Template and new good frames in, longer template out, without retraining: the hot update.

New frames are scored with the present template first. Those with nothing to teach are left out (``calibration.gate``);
the others the detector inserts. Golden frames are answered again with the new bank. Thresholds are kept: where new
references can only lower scores the false-reject promise goes on holding, though more defects may be missed. Where the
former references are given, the held-out scores are taken anew over all of them and the thresholds set from those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calibration import gate
from calibration.calibrate import FALSE_REJECT, put_content
from calibration.extension import Extended, Extension, ExtensionOptions, NewFrame, kept_thresholds, warnings_of
from calibration.held_out import HeldOut, Progress, choose_thresholds, leave_one_out, split, spread
from calibration.references import References
from runtime.detector import Detector, DetectorContext, TemplateContent
from runtime.disk import canonical
from runtime.engines.engine import Engine
from runtime.engines.selftest import check_version, self_test
from runtime.errors import ConfigError, PluginError
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Reference
from runtime.store.template import GoldenFrame, Template


def extend(
    detector: Detector,
    template: Template,
    frames: References,
    options: ExtensionOptions,
    progress: Progress,
    *,
    former: References | None = None,
) -> Extension:
    """Insert new good frames into a template; stores and activates nothing.

    ``former``: the references of its calibration, to set the thresholds anew. Raises ``ConfigError`` for a detector
    that cannot extend, no frame and an unreadable one; ``TemplateError`` for another version of the detector, other
    weights, and former references that are not all there; ``PluginError`` for content the thresholds would not fit.
    """
    _refuse_unfit(detector, template, frames)
    fresh, skipped = gate.fresh(frames, template.manifest.references)
    origin = gate.Former(template, former, frames) if former is not None else None
    if origin:
        _held_back(detector, origin)  # what is missing is missing before the long part, too
    before = _scores_before(detector, template, fresh, options, progress)
    scores = template.manifest.held_out_scores
    taken = list(range(len(fresh))) if options.everything else gate.worth_inserting(before, scores)
    left_out = fresh.without(taken)
    if len(left_out):
        skipped[gate.NOTHING_NEW] = tuple(sample.name for sample in left_out.samples)
    if not taken:
        unchanged = tuple(_paired(fresh, before, None, taken))
        why = f"no frame was inserted: the template stays {template.digest[:12]}"
        return Extension(template, unchanged, skipped, None, (why,))
    content = _longer(detector, template, fresh.only(taken), options, progress)
    engine = Engine(detector, content, device=options.device, threads=options.threads)
    judged = tuple(_paired(fresh, before, _scores(engine, fresh, "scoring new frames again", progress), taken))
    golden = _answered_again(engine, template.golden())
    references = (*template.manifest.references, *_provenance(fresh.only(taken)))
    if origin is None:
        made = Extended(content, kept_thresholds(template, judged, golden), scores, golden, references)
    else:
        held_out = _held_out(engine, origin, fresh.only(taken), options, progress)
        target = template.manifest.thresholds.target or FALSE_REJECT
        made = Extended(content, choose_thresholds(held_out, target), held_out.scores, golden, references)
    return Extension(template, judged, skipped, made, tuple(warnings_of(template, judged, made)))


def save(extension: Extension, store: Store, *, detector: DetectorIdentity, who: str, why: str) -> Template:
    """Put the extended template into the store as a child of its parent; activates nothing.

    Raises ``ConfigError`` when no frame was inserted.
    """
    made = extension.made
    if made is None:
        raise ConfigError(f"expected at least one inserted frame, found none: {extension.warnings[0]}")
    return put_content(
        made.content,
        store,
        product=extension.parent.manifest.product,
        detector=detector,
        thresholds=made.thresholds,
        golden=made.golden,
        held_out_scores=made.held_out_scores,
        references=made.references,
        parent=extension.parent.digest,
        who=who,
        why=why,
    )


def _refuse_unfit(detector: Detector, template: Template, frames: References) -> None:
    """Refuse what cannot end well before the first frame is decoded."""
    made_by = template.manifest.detector.name
    if made_by != detector.name:
        raise ConfigError(f"template {template.digest[:12]}: expected one of {detector.name}, found one of {made_by}")
    check_version(template, detector.version)
    if type(detector).extend is Detector.extend:
        raise _cannot_extend(detector)
    if not len(frames):
        raise ConfigError("expected at least one new good frame to insert, found none: add frames")


def _cannot_extend(detector: Detector) -> ConfigError:
    return ConfigError(
        f"expected a detector that can insert frames into a template, found {detector.name}, which cannot: "
        "calibrate again with the new frames among the references"
    )


def _scores_before(
    detector: Detector, template: Template, fresh: References, options: ExtensionOptions, progress: Progress
) -> list[float]:
    # The engine ends with this function: two banks of a gigabyte need not be in memory at once.
    engine = Engine(detector, template.content(), device=options.device, threads=options.threads)
    self_test(engine, template)  # new frames must be measured as the references were
    return _scores(engine, fresh, "scoring new frames", progress)


def _scores(engine: Engine, frames: References, what: str, progress: Progress) -> list[float]:
    scores = []
    for index in range(len(frames)):
        scores.append(engine.infer(frames[index].image).score)
        progress(index + 1, len(frames), what)
    return scores


def _paired(
    frames: References, before: Sequence[float], after: Sequence[float] | None, taken: Sequence[int]
) -> Iterator[NewFrame]:
    for index, sample in enumerate(frames.samples):
        yield NewFrame(sample.name, before[index], after[index] if after else None, index in taken)


def _longer(
    detector: Detector, template: Template, frames: References, options: ExtensionOptions, progress: Progress
) -> TemplateContent:
    """Let the detector insert the frames; refuse content that the parent's thresholds and maps would not fit."""
    content = template.content(pool=True)
    context = DetectorContext(device=options.device, seed=options.seed, progress=progress)
    longer = detector.extend(content, frames, context)
    if longer is None:
        raise _cannot_extend(detector)
    for what in ("settings", "weights", "map_shape"):
        # Compared as JSON, where a tuple is a list: that is how they are stored.
        if canonical.encode(_plain(longer, what)) != canonical.encode(_plain(content, what)):
            raise PluginError(
                detector.name,
                f"expected extend to keep the {what} of the template, found {getattr(longer, what)} instead of "
                f"{getattr(content, what)}: the thresholds belong to them; calibrate again",
            )
    return longer


def _plain(content: TemplateContent, what: str) -> Any:
    value = getattr(content, what)
    return dict(value) if isinstance(value, Mapping) else value


def _answered_again(engine: Engine, golden: Sequence[GoldenFrame]) -> tuple[GoldenFrame, ...]:
    answers = ((each.frame, engine.infer(each.frame)) for each in golden)
    return tuple(GoldenFrame(frame, answer.anomaly_map, answer.score) for frame, answer in answers)


def _provenance(frames: References) -> list[Reference]:
    return [Reference(name=name, sha256=sha256) for name, sha256 in frames.digests]


def _held_back(detector: Detector, former: gate.Former) -> References:
    """Return what the held-out scores are taken from: references in bank order, or frames the bank never had."""
    return former.never_inserted() if type(detector).leave_out is Detector.leave_out else former.in_bank()


def _held_out(
    engine: Engine, former: gate.Former, inserted: References, options: ExtensionOptions, progress: Progress
) -> HeldOut:
    """Score held-out frames against the extended bank."""
    held = _held_back(engine.detector, former)
    if type(engine.detector).leave_out is not Detector.leave_out:
        in_bank = References([*held.samples, *inserted.samples])
        held_out = leave_one_out(engine, in_bank, options.held_out, progress)
        if held_out is not None:
            return held_out
        held = former.never_inserted()
    return split(engine, held.only(spread(len(held), options.held_out)), progress)
