"""What a calibration found, as one page a line engineer can keep: no file beside it, no script, no network.

The page depends on its arguments only, so the same template gives the same bytes. Every text from outside (product,
file names, settings) is escaped, and the page forbids itself to load anything.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from calibration.calibrate import EXAMPLES, Calibration
from calibration.histogram import histogram
from calibration.pictures import jpeg, shrink
from runtime.errors import ConfigError
from runtime.images import overlay
from runtime.store.manifest import Thresholds
from runtime.store.template import Template

#: Longest side of a picture on the page, px: two fit beside each other in two columns of a 1000 px page.
_PICTURE_PX = 300

_NO_PROMISES = (
    "It says nothing about defects that are missed: only good parts were measured.",
    (
        "It holds for parts like the held-out ones: same line, camera, light, and spread from lot to lot. Drift breaks "
        "it, and nothing here notices."
    ),
    (
        "It is an average over calibrations and parts. The rate of this one calibration scatters about it, the more "
        "the fewer frames were held out."
    ),
)
_LEAVE_ONE_OUT = (
    "Each held-out frame was scored with itself taken out of the bank, but settings found automatically had seen it: "
    "the promise is then a close estimate, not a theorem."
)


def write_report(calibration: Calibration, template: Template, file: Path) -> None:
    """Write the page for ``template``, which was stored from ``calibration``, as UTF-8 HTML; replaces ``file``.

    Decodes the held-out frames it shows. Raises ``ConfigError`` when one of them, or ``file``, is out of reach.
    """
    page = "".join(
        (
            *_header(template),
            *_promise(calibration),
            *_scores(calibration),
            *_examples(calibration),
            *_tables(template),
        )
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{page}</main></body></html>\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write the report {file}: {error.strerror}; check the folder and its rights"
        ) from error


def _header(template: Template) -> Iterator[str]:
    manifest = template.manifest
    title = escape(f"Calibration of {manifest.product}")
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    yield (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body><main><h1>{title}</h1>"
    )
    detector = f"Detector {manifest.detector.name} {manifest.detector.version}"
    count = len(manifest.references)
    yield f'<p class="soft">{escape(detector)} · {_plural(count, "reference")} · template '
    yield f"<code>{template.digest[:12]}</code></p>"


def _promise(calibration: Calibration) -> Iterator[str]:
    thresholds = calibration.thresholds
    yield from (f'<div class="card warning"><p>{escape(text)}</p></div>' for text in _warnings(calibration))
    if thresholds.image is None:
        return
    yield f'<div class="card promise"><p class="large">Image threshold {thresholds.image:.6g}</p>'
    yield "<p>A part is NotOK when its image score is above it.</p>"
    if thresholds.bound is not None:
        yield f"<p>At most <b>{_percent(thresholds.bound)}</b> of good parts are expected to be rejected. This rests "
        yield f"on {_plural(thresholds.held_out, 'held-out good frame')} (rule: {escape(thresholds.rule)}).</p>"
    if thresholds.pixel is not None:
        yield f"<p>Pixel threshold {thresholds.pixel:.6g}: the defect mask is the part of the anomaly map above it; "
        yield "good parts are expected to have none, with the same promise.</p>"
    yield "<p>What this does not promise:</p><ul>"
    silent_on = (*_NO_PROMISES, *([_LEAVE_ONE_OUT] if calibration.held_out.rule == "leave-one-out" else []))
    yield from (f"<li>{escape(text)}</li>" for text in silent_on)
    yield "</ul></div>"


def _warnings(calibration: Calibration) -> Iterator[str]:
    """Say what the reader must not overlook: no threshold, a promise short of the target, damage not seen."""
    thresholds = calibration.thresholds
    if thresholds.image is None:
        yield (
            "There is no image threshold: no good frame was held out, so every verdict will be NotDecidable. "
            "Calibrate with at least two references."
        )
        return
    if thresholds.target is not None and thresholds.bound is not None and thresholds.bound > thresholds.target:
        yield (
            f"The target is missed: at most {_percent(thresholds.target)} false rejects were asked for, but "
            f"{_plural(thresholds.held_out, 'held-out frame')} cannot promise less than "
            f"{_percent(thresholds.bound)}. At least {_needed(thresholds.target)} held-out frames are needed."
        )
    missed = sum(each.score <= thresholds.image for each in calibration.damaged)
    if missed:
        yield (
            f"{missed} of {_plural(len(calibration.damaged), 'golden frame')} with planted damage scored no higher "
            "than the threshold: damage of that size would pass on this product."
        )


def _needed(target: float) -> int:
    # One held-out frame short of this, the promise is the largest score's: 1 / (n + 1).
    return math.ceil(1 / Fraction(str(target)) - 1)


def _scores(calibration: Calibration) -> Iterator[str]:
    held_out = calibration.held_out
    if not held_out.scores:
        return
    above = sum(score > (calibration.thresholds.image or 0.0) for score in held_out.scores)
    yield "<h2>Scores of good parts</h2><figure>"
    yield histogram(held_out.scores, calibration.thresholds.image, [each.score for each in calibration.damaged])
    yield f"<figcaption>Image scores of {_plural(len(held_out.scores), 'held-out good frame')}, {above} of them above "
    yield "the threshold. Triangles: golden frames with planted damage (a square of an eighth of the shorter side, "
    yield "inverted, in the middle).</figcaption></figure>"
    yield "<details><summary>Every held-out score</summary><table>"
    yield from (_row(held_out.names[index], f"{held_out.scores[index]:.6g}") for index in _ranked(held_out.scores))
    yield "</table></details>"


def _ranked(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def _examples(calibration: Calibration) -> Iterator[str]:
    held_out, cuts = calibration.held_out, calibration.thresholds
    top = _top_of_colours(calibration)
    pairs = [
        (
            held_out.frames[index].image,
            held_out.maps[index],
            f"{held_out.names[index]}, score {held_out.scores[index]:.4g}",
        )
        for index in _ranked(held_out.scores)[:EXAMPLES]
    ]
    if pairs:
        yield "<h2>Good parts nearest to the threshold</h2><p class='soft'>The held-out frames with the highest "
        yield "scores: look for parts that should not be among the references.</p>"
        yield from _figures(pairs, cuts, top)
    if calibration.damaged:
        yield "<h2>Planted damage</h2><p class='soft'>Golden frames with a square inverted in their middle: the "
        yield "detector must see it, and every compute backend must give this answer again.</p>"
        damaged = [
            (each.frame, each.anomaly_map, f"planted damage, score {each.score:.4g}") for each in calibration.damaged
        ]
        yield from _figures(damaged, cuts, top)
    yield f"<p class='soft'>Colours run from 0 to {top:.4g} on the anomaly map; "
    if cuts.pixel is None:
        yield "there is no defect mask without a pixel threshold.</p>"
    else:
        yield f"the white line surrounds the defect mask, the map above {cuts.pixel:.4g}.</p>"


def _top_of_colours(calibration: Calibration) -> float:
    """Return the map value drawn in the strongest colour: twice the pixel threshold, so that good parts stay pale."""
    if calibration.thresholds.pixel is not None and calibration.thresholds.pixel > 0:
        return 2 * calibration.thresholds.pixel
    peaks = [*calibration.held_out.peaks, *(float(each.anomaly_map.max()) for each in calibration.golden)]
    return max([peak for peak in peaks if peak > 0], default=1.0)


def _figures(pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], cuts: Thresholds, top: float) -> Iterator[str]:
    yield '<div class="pairs">'
    for image, anomaly_map, words in pairs:
        small = shrink(image, _PICTURE_PX)
        drawn = overlay(small, anomaly_map, math.inf if cuts.pixel is None else cuts.pixel, top)
        yield '<figure><div class="pair">'
        yield f'<img src="{_inline(small)}" alt="frame"><img src="{_inline(drawn)}" alt="anomaly map over the frame">'
        yield f"</div><figcaption>{escape(words)}</figcaption></figure>"
    yield "</div>"


def _inline(image: np.ndarray) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(image)).decode('ascii')}"


def _tables(template: Template) -> Iterator[str]:
    manifest = template.manifest
    bank = manifest.bank
    facts = {
        "template": template.digest,
        "derived from": manifest.parent or "nothing: calibrated from references",
        "detector": f"{manifest.detector.name} {manifest.detector.version} ({manifest.detector.distribution})",
        "references": f"{len(manifest.references)} (their file digests are in the template)",
        "bank": f"{bank.valid} of {bank.capacity} places taken, {bank.size / 1e6:.3g} MB",
        "anomaly map": f"{manifest.map_shape[0]} x {manifest.map_shape[1]} px",
        **{f"weights {name}": digest for name, digest in sorted(manifest.weights.items())},
    }
    sections: dict[str, Mapping[str, Any]] = {
        "Settings": manifest.settings,
        "What the detector measured": manifest.statistics,
        "Template": facts,
    }
    for title, values in sections.items():
        if values:
            yield f'<h2>{escape(title)}</h2><div class="card"><table>'
            yield from (_row(name, _words(value)) for name, value in values.items())
            yield "</table></div>"


def _row(name: str, words: str) -> str:
    return f"<tr><th>{escape(name)}</th><td>{'<br>'.join(escape(line) for line in words.splitlines())}</td></tr>"


def _words(value: Any) -> str:
    """Spell a JSON value: numbers to four digits, a list of lists as one line each."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ("\n" if any(isinstance(each, list | tuple) for each in value) else ", ").join(map(_words, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
