"""Any JSON object of figures as tables on the terminal."""

from __future__ import annotations

from typing import Any

from runtime.terminal import print_record, print_table


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
