"""What a person sees in a terminal: progress bars, tables, one JSON line for scripts. The only place that uses rich."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int, str], None]

#: Nothing shorter than this gets a progress bar.
QUIET_S = 1.0


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Lend a ``progress(done, total, what)`` that draws one bar on stderr for every ``what`` that lasts.

    Silent where stderr is no terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total, _what: None
        return
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    tasks: dict[str, TaskID] = {}
    first_seen: dict[str, float] = {}
    # stdout stays as it is: rich would lead it to this console, and `--json > FILE` would find the file empty.
    with Bars(*columns, console=console, redirect_stdout=False) as bars:

        def progress(done: int, total: int, what: str) -> None:
            since = first_seen.setdefault(what, time.monotonic())
            if what not in tasks:
                if time.monotonic() - since < QUIET_S:
                    return
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)
            if 0 < total <= done:
                # A line stays, the bar goes: whatever is shown next has the terminal for itself.
                bars.remove_task(tasks.pop(what))
                took = time.monotonic() - first_seen.pop(what)
                bars.console.print(f"{what}: {total} in {took:.1f} s", markup=False, highlight=False)

        yield progress


def say(text: str) -> None:
    """Print a line for people, on stderr, so that stdout stays clean for ``--json``."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the place that prints


def print_json(value: object) -> None:
    """Print ``value`` as one JSON line on stdout: always the last line of a command run with ``--json``."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)  # noqa: T201 - as above


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; columns of numbers are aligned right. No ``columns``: no line for their names."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    listed = [[_cell(value) for value in row] for row in rows]
    names = list(columns) or [""] * max(map(len, listed), default=0)
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", show_header=bool(columns))
    for index, name in enumerate(names):
        numeric = bool(columns) and bool(listed) and all(_is_number(row[index]) for row in listed)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*row)
    Console().print(table)


def print_record(title: str, record: Mapping[str, object]) -> None:
    """Print a record on stdout as a table of its keys and values."""
    print_table(title, (), list(record.items()))


def show(value: Any, as_json: bool, columns: Sequence[str] | Mapping[str, str] = (), title: str = "") -> None:
    """Print a list of records as a table of ``columns`` (keys, or key -> heading), or one record; or either as JSON."""
    if as_json:
        print_json(value)
    elif isinstance(value, dict):
        print_record(title, value)
    else:
        headings = [*(columns.values() if isinstance(columns, Mapping) else columns)]
        print_table(title, headings, [[record.get(key) for key in columns] for record in value])


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"  # noqa: PLR2004 - four digits either way
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return escape(", ".join(map(str, value))) or "-"
    if isinstance(value, dict):
        return escape(", ".join(f"{key} {each}" for key, each in value.items())) or "-"
    return escape(str(value))


def _is_number(text: str) -> bool:
    return text == "-" or text.lstrip("-").replace(".", "", 1).replace("e", "", 1).replace("-", "", 1).isdigit()
