"""Shows a station's results as they come, and keeps overlay pictures of them."""

from __future__ import annotations

import contextlib
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runtime.client.subscriber import Received, Subscriber
from runtime.errors import ConfigError, StationError
from runtime.inspection import Inspection, Verdict

if TYPE_CHECKING:
    from rich.table import Table

#: Results shown at once.
ROWS = 15
#: Paths of overlays kept for the totals: watching may last for months.
PICTURES = 1000
#: A map is drawn from 0 to this many times the pixel threshold: the same value has the same colour on every picture.
FULL_SCALE = 2.0
#: Characters of the host's run in an overlay's name: 32 bits of a random number.
RUN_CHARACTERS = 8


@dataclass
class Tally:
    """What has been received: counts by verdict and error word, latencies in microseconds, and what went missing.

    ``pictures`` are the latest overlays' paths.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    latencies_us: deque[int] = field(default_factory=lambda: deque(maxlen=10_000))
    pictures: deque[str] = field(default_factory=lambda: deque(maxlen=PICTURES))
    _runs: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def received(self) -> int:
        """Results received."""
        return self.verdicts.total()

    @property
    def missing(self) -> int:
        """Sequence numbers between the first and the last result of each run of the host that did not come (yet)."""
        return sum(last - first + 1 - count for first, last, count in self._runs.values())

    def add(self, inspection: Inspection) -> None:
        """Count one result of any camera of the station."""
        self.verdicts[inspection.verdict.label] += 1
        if inspection.verdict is Verdict.NOT_DECIDABLE:
            self.errors[inspection.error.value] += 1
        self.latencies_us.append(inspection.latency_us)
        # result_id is RUN-SEQ: a host that starts again counts from 1 again. Results of two cameras may come in
        # another order than their frames did, so a jump alone is no loss.
        run, seq = inspection.result_id.rpartition("-")[0], inspection.seq
        first, last, count = self._runs.get(run, (seq, seq, 0))
        self._runs[run] = (min(first, seq), max(last, seq), count + 1)

    def as_json(self) -> dict[str, Any]:
        """Return the figures `edgead watch --json` ends with."""
        ordered = sorted(self.latencies_us)
        return {
            "inspections": self.received,
            "ok": self.verdicts["OK"],
            "not_ok": self.verdicts["NotOK"],
            "not_decidable": self.verdicts["NotDecidable"],
            "errors": dict(self.errors),
            "missing": self.missing,
            "latency_ms_p50": percentile(ordered, 50),
            "latency_ms_p99": percentile(ordered, 99),
            "pictures": [*self.pictures],
        }

    def sentence(self) -> str:
        """Return the counts by verdict in words."""
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items()))
        return f"{self.received} results{': ' if counts else ''}{counts}"


def percentile(ordered_us: list[int], percent: float) -> float | None:
    """Return a percentile (nearest rank) of sorted microseconds, in milliseconds; None for no values."""
    if not ordered_us:
        return None
    rank = max(0, -(-len(ordered_us) * percent // 100) - 1)
    return ordered_us[int(rank)] / 1000


def as_record(received: Received) -> dict[str, Any]:
    """Return one result as plain JSON values, without map and preview: one line of `edgead watch --json`."""
    inspection = received.inspection
    record = {name: getattr(inspection, name) for name in inspection.__slots__ if name not in {"map", "preview"}}
    return record | {"verdict": inspection.verdict.label, "error": inspection.error.value}


def save_overlay(received: Received, folder: Path) -> Path | None:
    """Write the map drawn over the preview as a PNG; None if the result has no map.

    Over black without a preview, or where its encoding is not JPEG. The name begins with the host's run, so that a
    host that starts again, and counts from 1 again, overwrites nothing. Raises ``ConfigError`` if ``folder`` cannot be
    made.
    """
    import numpy as np

    from runtime.images import overlay, write_png
    from runtime.wire.answers import decode_preview

    inspection, anomaly_map = received.inspection, received.anomaly_map()
    if anomaly_map is None:
        return None
    shape = (inspection.frame_height, inspection.frame_width, 3)
    jpeg = received.preview if inspection.preview == "jpeg" else None
    picture = decode_preview(jpeg) if jpeg else np.zeros(shape, np.uint8)
    threshold = inspection.pixel_threshold
    scale = FULL_SCALE * threshold if threshold else float(anomaly_map.max()) or 1.0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder} for overlays: {error.strerror}; name another") from error
    # A peer's text: nothing in it may lead out of the folder.
    run = _UNSAFE.sub("-", inspection.result_id[:RUN_CHARACTERS])
    name = f"{run}_{inspection.seq:08d}_{inspection.camera}_{_stem(inspection.source)}{inspection.verdict.label}.png"
    path = folder / name
    write_png(path, overlay(picture, anomaly_map, threshold if threshold is not None else float("inf"), scale))
    return path


_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def _stem(source: str) -> str:
    stem = _UNSAFE.sub("-", re.sub(r"\.\w+$", "", source)).strip("-")
    return f"{stem[-60:]}_" if stem else ""


def live_table(recent: Iterable[Inspection], tally: Tally, title: str) -> Table:
    """Return the table `edgead watch` shows: the latest results, newest first, and the counts; fits 80 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{title}: {tally.sentence()}", box=box.SIMPLE_HEAD, title_justify="left", expand=True, pad_edge=False
    )
    for column in ("seq", "camera", "verdict", "score", "threshold", "ms", "source / reason"):
        side: Literal["left", "right"] = "right" if column in {"seq", "score", "threshold", "ms"} else "left"
        # Only the last column gives way: one result is one line, on any terminal.
        ratio = 1 if column == "source / reason" else None
        table.add_column(column, justify=side, no_wrap=True, overflow="ellipsis", ratio=ratio)
    for each in reversed([*recent]):
        table.add_row(
            str(each.seq),
            each.camera,
            Text(each.verdict.label, _STYLE[each.verdict]),
            "-" if each.score is None else f"{each.score:.4f}",
            "-" if each.threshold is None else f"{each.threshold:.4f}",
            f"{each.latency_us / 1000:.1f}",
            Text(_story(each)),
        )
    return table


_STYLE = {Verdict.OK: "green", Verdict.NOT_OK: "bold red", Verdict.NOT_DECIDABLE: "bold yellow", Verdict.UNDEFINED: ""}


def _story(inspection: Inspection) -> str:
    """Return where the frame came from, or why there is no decision about it."""
    if inspection.verdict is Verdict.NOT_DECIDABLE:
        return f"{inspection.error}: {inspection.error_detail}"
    return inspection.source or inspection.part_id or f"frame {inspection.frame_id}"


def shown(results: Iterable[Received], tally: Tally, title: str, *, lines: bool = True) -> Iterator[Received]:
    """Count results and pass them on, showing each on stderr: in a live table on a terminal, elsewhere as a line.

    ``lines`` False: nothing is shown where stderr is no terminal.
    """
    from rich.console import Console
    from rich.live import Live

    from runtime.terminal import say

    console = Console(stderr=True)
    if not console.is_terminal:
        for received in results:
            tally.add(received.inspection)
            if lines:
                say(_line(received.inspection))
            yield received
        return
    recent: deque[Inspection] = deque(maxlen=ROWS)
    # stdout stays as it is, see ``runtime.terminal.progress_bars``.
    with Live(live_table(recent, tally, title), console=console, auto_refresh=False, redirect_stdout=False) as live:
        for received in results:
            tally.add(received.inspection)
            recent.append(received.inspection)
            live.update(live_table(recent, tally, title), refresh=True)
            yield received


def _line(inspection: Inspection) -> str:
    score = "-" if inspection.score is None else f"{inspection.score:.4f}"
    return f"{inspection.seq:6d} {inspection.camera:<8} {inspection.verdict.label:<12} {score:>8}  {_story(inspection)}"


def watch(
    subscriber: Subscriber, *, as_json: bool, save_maps: Path | None, count: int | None, idle_s: float | None
) -> Tally:
    """Show results until ``count`` came, ``idle_s`` seconds pass without one, or Ctrl-C; return the tally.

    Raises ``StationError`` when nothing has come at all within ``idle_s``, ``WireError`` for bytes that are no result.
    """
    from runtime.terminal import print_json, say

    tally = Tally()
    say(f"waiting for results of {subscriber.address}; Ctrl-C ends")
    with contextlib.suppress(KeyboardInterrupt):  # how a person ends watching
        for received in shown(subscriber.results(idle_s), tally, subscriber.address, lines=not as_json):
            if as_json:
                print_json(as_record(received))
            if save_maps is not None and (picture := save_overlay(received, save_maps)):
                tally.pictures.append(str(picture))
            if count is not None and tally.received >= count:
                break
        if not tally.received:
            raise StationError(
                f"no result came from {subscriber.address} within {idle_s:g} s: is `edgead run` up, "
                "the address that of `results`, and a camera sending?"
            )
    say(tally.sentence())
    return tally
