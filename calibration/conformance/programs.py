"""Promises about the graph as one program. Each function returns what it found, or raises why it is not kept."""

from __future__ import annotations

import numpy as np
import torch
from torch.export import ExportedProgram

from calibration.calibrate import plant_damage
from calibration.conformance.outcomes import BrokenError, NotedError
from calibration.conformance.subject import SHAPE, THREADS, Subject
from runtime.detector import TemplateContent
from runtime.engines.engine import Engine
from runtime.engines.key import digest_program
from runtime.engines.lint import lint as find
from runtime.engines.parity import LIMITS
from runtime.engines.program import Layout
from runtime.engines.tensorrt.fit import fit

#: Characters of a refusal of torch.export that are worth reading.
_REFUSAL = 200


def export(subject: Subject) -> str:
    """Capture one program, strictly; it gives the eager graph's numbers."""
    try:
        program = subject.program
    except Exception as error:
        words = " ".join(str(error).split())[:_REFUSAL]
        raise BrokenError(
            f"torch.export refuses the graph: {type(error).__name__}: {words}",
            "no Python decision on pixel values, no item(), no numpy in forward; see docs/detector-plugin.md",
        ) from error
    off = _largest_difference(subject, program, subject.content)
    operations = sum(node.op == "call_function" for node in program.graph.nodes)
    return f"{operations} operations, map off by up to {off:.2g}"


def lint(subject: Subject) -> str:
    """Find what TensorRT refuses or converts wrongly; eager and AOTInductor run it all the same.

    Looked at is what a compiled engine is made of: the program after ``fit``, which says some operations otherwise.
    """
    findings = find(fit(subject.program))
    if findings:
        first = min(findings, key=lambda each: not each.is_wrong)
        more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
        raise NotedError(f"TensorRT would not run it{more}: {first}", "eager and AOTInductor do")
    return "nothing to replace"


def bank(subject: Subject) -> str:
    """Check that inserting changes values, never shapes or program, and that equal programs may exchange banks."""
    first, other = subject.detector.bank(subject.content), subject.detector.bank(subject.other)
    away = [name for name, tensor in first.items() if tensor.device.type != "cpu" or not tensor.is_contiguous()]
    if away:
        raise BrokenError(f"bank tensors not on the CPU, or not contiguous: {', '.join(away)}", "return them so")
    layouts = [{name: Layout.of(tensor) for name, tensor in each.items()} for each in (first, other)]
    if layouts[0] != layouts[1]:
        raise BrokenError(
            f"as many other references give a bank of another layout: {_difference(*layouts)}",
            "let shapes follow from capacity and settings only, and keep the order",
        )
    program = subject.exported(subject.other)
    if digest_program(program) == digest_program(subject.program):
        _largest_difference(subject, subject.program, subject.other)
        found = "another version runs in the same program"
    else:
        # Allowed: what is learnt once may be part of the graph. The engine cache tells the two programs apart.
        found = "another calibration has a program of its own"
    return f"{found}; {_inserted(subject)}"


def _inserted(subject: Subject) -> str:
    longer = subject.longer
    if longer is None:
        return "nothing can be inserted"
    content = subject.content
    if longer.capacity != content.capacity:
        return f"inserting {len(subject.pictures.new)} makes room anew ({content.capacity} to {longer.capacity})"
    if digest_program(subject.exported(longer)) != digest_program(subject.program):
        raise BrokenError(
            "inserting frames within the capacity changes the program",
            "bring what changes with the references as a tensor of the bank",
        )
    _largest_difference(subject, subject.program, longer)
    return f"inserting {len(subject.pictures.new)} changes values only"


def _largest_difference(subject: Subject, program: ExportedProgram, content: TemplateContent) -> float:
    """Answer frames with ``program`` and the bank of ``content``; return how far the maps are from the eager ones."""
    compiled = Engine(subject.detector, content, threads=THREADS, programs={SHAPE: program.module()})
    eager = subject.engine_of(content)
    limit, largest = LIMITS["fp32"], 0.0
    for frame in (subject.frame(), plant_damage(subject.frame(61))):
        with torch.inference_mode():
            expected, found = eager.infer(frame), compiled.infer(frame)
        off = np.abs(expected.anomaly_map - found.anomaly_map)
        allowed = limit.relative * np.abs(expected.anomaly_map) + limit.absolute
        score_off = abs(expected.score - found.score)
        if (off > allowed).any() or score_off > limit.relative * abs(expected.score) + limit.absolute:
            raise BrokenError(
                f"the exported program answers otherwise than the eager graph: the map by up to {off.max():.3g}, the "
                f"score by {score_off:.3g}",
                "bring what changes with the template as a tensor of the bank; decide nothing in Python",
            )
        largest = max(largest, float(off.max()))
    return largest


def _difference(one: dict[str, Layout], two: dict[str, Layout]) -> str:
    if [*one] != [*two]:
        return f"{', '.join(one)} and {', '.join(two)}"
    return ", ".join(
        f"{name} {list(one[name].shape)} and {list(two[name].shape)}" for name in one if one[name] != two[name]
    )
