"""Promises about settings and calibration. Each function returns what it found, or raises why it is not kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from calibration.conformance.outcomes import BrokenError
from calibration.conformance.subject import SHAPE, Subject, digest_content
from calibration.references import References
from runtime.detector import TemplateContent
from runtime.disk import canonical, tensors
from runtime.errors import EdgeadError

#: A key no detector has, and a value no setting takes.
_UNKNOWN = "no_such_setting_of_any_detector"
_NONSENSE: Mapping[str, Any] = {"expected": "no such value"}


def settings(subject: Subject) -> str:
    """Check that defaults are complete, an unknown key and nonsense refused, and that JSON gives settings back."""
    model = subject.detector.settings_model
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    if required:
        raise BrokenError(f"settings without a default: {', '.join(required)}", "give every setting a default")
    model()
    loose = [name for name in (_UNKNOWN, *model.model_fields) if _takes(subject, name)]
    if loose:
        raise BrokenError(
            f"wrong settings are taken without a word: {', '.join(loose)}",
            "refuse unknown keys (extra='forbid') and give every field a type",
        )
    chosen = subject.settings
    if model.model_validate(chosen.model_dump(mode="json")) != chosen:
        raise BrokenError("settings change on their way through JSON", "use types that JSON can say")
    return f"{len(model.model_fields)} settings"


def _takes(subject: Subject, name: str) -> bool:
    try:
        subject.detector.settings_model.model_validate({name: dict(_NONSENSE)})
    except ValidationError:
        return False
    return True


def calibrate(subject: Subject) -> str:
    """Check that the content is whole and fit for the store, and that torch is left as it was."""
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    started = time.monotonic()
    content = subject.content
    seconds = time.monotonic() - started
    if (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()) != before:
        raise BrokenError(
            "calibrate leaves torch with another default dtype, grad or inference mode", "use them as context managers"
        )
    _check_content(content)
    size = sum(each.nbytes for each in content.tensors.values())
    return f"{len(subject.pictures.good)} references in {seconds:.2f} s, {size / 1e6:.2f} MB"


def _check_content(content: TemplateContent) -> None:
    if not isinstance(content, TemplateContent):
        raise BrokenError(f"calibrate returned {type(content).__name__}", "return an edgead.TemplateContent")
    for what in ("settings", "statistics", "weights"):
        try:
            canonical.encode(dict(getattr(content, what)))
        except EdgeadError as error:
            raise BrokenError(f"{what} cannot be stored: {error}") from error
    for name, array in [*content.tensors.items(), *content.pool.items()]:
        if not isinstance(array, np.ndarray) or array.dtype.name not in tensors.DTYPES:
            found = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
            raise BrokenError(f"tensor {name} is {found}", f"store arrays of {', '.join(tensors.DTYPES)}")
        if not np.isfinite(array).all():
            raise BrokenError(f"tensor {name} has values that are not finite", "find out where they come from")
    if not 0 <= content.valid <= content.capacity:
        raise BrokenError(f"valid {content.valid} of capacity {content.capacity}", "keep 0 <= valid <= capacity")
    height, width = content.map_shape
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise BrokenError(f"map_shape is {content.map_shape}", "give (height, width) as whole numbers")


def digest(subject: Subject) -> str:
    """Let a second object learn the same bits, from another state of the global random numbers."""
    first = digest_content(subject.content)
    torch.manual_seed(12345)
    np.random.seed(54321)  # noqa: NPY002 - the global state is what must not matter
    second = subject.learn(subject.pictures.good, detector=subject.fresh())
    if digest_content(second) == first:
        return first[:12]
    differing = [
        name
        for name in {**subject.content.tensors, **second.tensors}
        if not np.array_equal(subject.content.tensors.get(name, []), second.tensors.get(name, []))
    ]
    where = f"tensors {', '.join(differing[:4])}" if differing else "settings, statistics, weights or pool"
    raise BrokenError(
        f"a second calibration gives another template: {where} differ",
        "draw every random number from context.seed, and keep times out of statistics",
    )


def few(subject: Subject) -> str:
    """Learn from one reference and from constant ones: a template that answers, or an error of the family."""
    found = []
    for what, references in (
        ("one reference", subject.pictures.good.only([0])),
        ("constant references", subject.pictures.constant),
    ):
        try:
            content = subject.learn(references)
            subject.engine_of(content).infer(subject.frame())
        except EdgeadError as error:
            if _is_answer(error):
                raise BrokenError(
                    f"learnt from {what} it answers badly: {error}", "refuse them in calibrate"
                ) from error
            found.append(f"{what} refused ({error})")
        else:
            found.append(f"{what} learnt")
    return ", ".join(found)


def _is_answer(error: EdgeadError) -> bool:
    from runtime.engines.engine import ResultError

    return isinstance(error, ResultError)


def errors(subject: Subject) -> str:
    """Offer no reference at all, and one whose file is damaged: both end in an error of the family."""
    for what, references in (
        ("no reference at all", References([])),
        ("a reference that cannot be decoded", subject.pictures.damaged),
    ):
        try:
            subject.learn(references)
        except EdgeadError:
            continue
        except Exception as error:
            raise BrokenError(
                f"{what} ends in {type(error).__name__}: {error}",
                "raise edgead.ConfigError with a sentence the user can act on",
            ) from error
        raise BrokenError(f"{what} is passed over in silence", "raise edgead.ConfigError, or let it through")
    return "no reference, a damaged one: refused"


def weights(subject: Subject) -> str:
    """Offer a template that names other weight files than this machine has: graph or bank must refuse it."""
    content = subject.content
    if not content.weights:
        return "uses no weight file"
    altered = replace(content, weights=dict.fromkeys(content.weights, "0" * 64))
    detector = subject.fresh()
    try:
        detector.graph(altered, SHAPE)
        detector.bank(altered)
    except EdgeadError as error:
        return f"refused ({type(error).__name__})"
    raise BrokenError(
        "a template made with other weights is taken as if nothing were",
        "compare content.weights with digest_of_weights in graph, and raise edgead.TemplateError",
    )
