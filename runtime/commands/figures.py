"""Any JSON object of figures as tables: on the terminal, or as Markdown for a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.terminal import print_record, print_table

#: Heading levels of Markdown.
_DEEPEST = 6


def print_figures(title: str, figures: dict[str, Any]) -> None:
    """Print single figures as a record, a list of objects as a table with a column each, an object as a part."""
    single = {key: value for key, value in figures.items() if not isinstance(value, dict | list)}
    if single:
        print_record(title, single)
    for key, value in figures.items():
        if isinstance(value, dict):
            print_figures(f"{title}: {key}", value)
        elif isinstance(value, list) and all(isinstance(each, dict) for each in value):
            _print_list(f"{title}: {key}", value)


def _print_list(title: str, objects: list[dict[str, Any]]) -> None:
    """Print one table where objects hold plain figures only; else each as a part of its own."""
    if any(isinstance(value, dict | list) for each in objects for value in each.values()):
        for each in objects:
            print_figures(title, each)
        return
    name, *rest = dict.fromkeys(key for each in objects for key in each)  # the first figure tells which object it is
    print_table(
        title, (name, *(str(each.get(name)) for each in objects)), [[n, *(o.get(n) for o in objects)] for n in rest]
    )


def print_markdown(title: str, figures: dict[str, Any], level: int = 2) -> None:
    """Print the same as Markdown: a heading for each object, a row for each single figure or listed object."""
    print(f"{'#' * min(level, _DEEPEST)} {title}\n")  # noqa: T201 - it is what was asked for
    single = {key: value for key, value in figures.items() if not isinstance(value, dict | list)}
    if single:
        _print_rows(("figure", "value"), list(single.items()))
    for key, value in figures.items():
        if isinstance(value, dict):
            print_markdown(key, value, level + 1)
        elif isinstance(value, list) and all(isinstance(each, dict) for each in value):
            print(f"{'#' * min(level + 1, _DEEPEST)} {key}\n")  # noqa: T201
            names = list(dict.fromkeys(name for each in value for name in each))
            _print_rows(names, [[each.get(name) for name in names] for each in value])


def _print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    lines = [names, ["---"] * len(names), *([_text(value) for value in row] for row in rows)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n")  # noqa: T201


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"  # noqa: PLR2004 - four digits either way
    return "-" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
