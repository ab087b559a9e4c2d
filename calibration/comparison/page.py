"""A comparison as one HTML page (no file beside it, no script, no network), a Markdown table and a JSON record."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from calibration.comparison.examples import draw_truth
from calibration.comparison.rows import COLUMNS, Done
from calibration.dataset import Dataset, Sample
from runtime.engines.target import available_cores, installed
from runtime.errors import ConfigError

SCHEMA = "edgead.comparison/1"
_WIDE = """
main { max-width: 1500px; }
.scroll { overflow-x: auto; }
td.figure, th.figure { text-align: right; width: auto; white-space: nowrap; }
td.best { font-weight: 700; color: #1f6b3a; }
table.maps { width: auto; }
.maps td, .maps th { padding: 4px; width: auto; vertical-align: top; }
.maps span { font-size: 12px; }
.maps img { width: 170px; display: block; border-radius: 3px; }
.maps th { color: inherit; }
"""


def write_comparison(
    done: Sequence[Done], dataset: Dataset, examples: Sequence[Sample], circumstances: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Write ``comparison.html``, ``.md`` and ``.json`` into ``folder``; return the record.

    Raises ``ConfigError`` when the folder cannot be written.
    """
    record = _record(done, dataset, circumstances)
    page = "".join((*_head(record), *_table(done), *_failures(done), *_maps(done, examples, folder), *_foot(record)))
    texts = {
        "comparison.html": page,
        "comparison.md": markdown(record),
        "comparison.json": json.dumps(record, indent=1, ensure_ascii=False) + "\n",
    }
    try:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the comparison into {folder}: {error.strerror}; check its rights") from error
    return record


def markdown(record: Mapping[str, Any]) -> str:
    """Return the record as a Markdown table, with the reasons of the rows that failed and the conditions below."""
    headings = ["detector", *(f"{title} ({unit})" if unit else title for _, title, unit, _ in COLUMNS)]
    lines = [
        f"# Detectors on {record['dataset']}",
        "",
        f"| {' | '.join(headings)} |",
        "|---" + "|---:" * len(COLUMNS) + "|",
    ]
    for row in record["rows"]:
        cells = [_number(row["figures"].get(key)) for key, *_ in COLUMNS]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    lines += ["", *(f"* {row['label']}: failed: {row['error']}" for row in record["rows"] if row["error"])]
    return "\n".join([*lines, "", *_conditions(record), ""])


def _record(done: Sequence[Done], dataset: Dataset, circumstances: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "dataset": dataset.root.resolve().name,
        "n_references": len(dataset.references),
        "n_test": len(dataset.test),
        "n_defective": sum(sample.is_defect for sample in dataset.test),
        "circumstances": {**circumstances, "cores": available_cores(), "torch": installed("torch")},
        "rows": [each.as_json() for each in done],
        "warnings": list(dataset.warnings),
    }


def _head(record: Mapping[str, Any]) -> Iterator[str]:
    style = (resources.files("calibration") / "report.css").read_text(encoding="utf-8")
    title = escape(f"Detectors on {record['dataset']}")
    yield (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}{_WIDE}</style></head><body><main><h1>{title}</h1>"
    )
    yield f'<p class="soft">{record["n_references"]} references, {record["n_test"]} test images, '
    yield f"{record['n_defective']} of them defective.</p>"
    yield from (f'<div class="card warning"><p>{escape(text)}</p></div>' for text in record["warnings"])


def _table(done: Sequence[Done]) -> Iterator[str]:
    best = {key: _best([each.figures.get(key) for each in done], end) for key, _, _, end in COLUMNS}
    yield '<div class="card scroll"><table><tr><th>detector</th>'
    for _, title, unit, _ in COLUMNS:
        yield f'<th class="figure">{escape(title)}{f" ({unit})" if unit else ""}</th>'
    yield "</tr>"
    for each in done:
        yield f"<tr><td>{escape(each.row.label)}</td>"
        if each.error:
            yield f'<td colspan="{len(COLUMNS)}" class="soft">failed, see below</td>'
        else:
            for key, *_ in COLUMNS:
                value = each.figures.get(key)
                yield f'<td class="figure{" best" if value is not None and value == best[key] else ""}">'
                yield f"{_number(value)}</td>"
        yield "</tr>"
    yield "</table></div>"


def _failures(done: Sequence[Done]) -> Iterator[str]:
    for each in done:
        if each.error:
            yield f'<div class="card warning"><p><b>{escape(each.row.label)}</b> failed: {escape(each.error)}</p></div>'


def _maps(done: Sequence[Done], examples: Sequence[Sample], folder: Path) -> Iterator[str]:
    shown = [each for each in done if each.examples]
    if not shown or not examples:
        return
    yield "<h2>Example maps</h2><p class='soft'>The white line on the image surrounds the labelled defect. Colours "
    yield "begin at the median of a detector's maps of good parts and end at the largest value shown here: every "
    yield "detector has a scale of its own. Below each map: the image score, and how many of the good test images it "
    yield "is above.</p>"
    yield '<div class="card scroll"><table class="maps"><tr><th>image</th>'
    yield "".join(f"<th>{escape(each.row.label)}</th>" for each in shown)
    yield "</tr>"
    for number, sample in enumerate(examples):
        yield f'<tr><td>{_image(draw_truth(sample), sample.name)}<span class="soft">{escape(sample.name)}</span></td>'
        for each in shown:
            example = each.examples[number]
            data = (each.row.file(folder).parent / example["picture"]).read_bytes()
            lower = "" if example["lower"] is None else f", above {100 * example['lower']:.0f} % of good"
            yield f"<td>{_image(data, f'{each.row.label} on {sample.name}')}"
            yield f'<span class="soft">{example["score"]:.4g}{lower}</span></td>'
        yield "</tr>"
    yield "</table></div>"


def _foot(record: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>How it was measured</h2><ul>"
    yield from (f"<li>{escape(line.removeprefix('* '))}</li>" for line in _conditions(record))
    yield "</ul></main></body></html>\n"


def _conditions(record: Mapping[str, Any]) -> list[str]:
    made = record["circumstances"]
    loads = [row["figures"]["load"] for row in record["rows"] if "load" in row["figures"]]
    busy = f", load average at the start of each {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    threads = made["threads"] or made["cores"]
    return [
        "* every detector in a process of its own, one after the other; scores and maps are raw, nothing is rescaled",
        "* image AUROC over test images; pixel AUROC, AP and PRO (to 30 % false positives) over the pixels of the maps",
        f"* {made['device']}, threads: {threads}, cores: {made['cores']}{busy}",
        f"* torch {made['torch']}, seed {made['seed']}",
        "* latency: resize to score, decoding left out, eager; peak memory: of the whole process, calibration included",
        *(f"* {row['label']}: preset {Path(row['preset']).name}" for row in record["rows"] if row["preset"]),
    ]


def _best(values: Sequence[float | None], end: str) -> float | None:
    there = [value for value in values if value is not None]
    if len(there) < 2:  # noqa: PLR2004 - one alone is not the best of anything
        return None
    return max(there) if end == "high" else min(there)


def _number(value: float | None) -> str:
    """Return a figure in four digits, whole where it is large."""
    if value is None:
        return "-"
    if abs(value) <= 1:
        return f"{value:.4f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"  # noqa: PLR2004 - four digits


def _image(data: bytes, words: str) -> str:
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode("ascii")}" alt="{escape(words)}">'
