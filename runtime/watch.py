"""Shows a station's results as they come, and keeps overlay pictures of them."""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.inspection import Inspection, Verdict
from runtime.subscriber import Received, Subscriber

if TYPE_CHECKING:
    from rich.table import Table

#: Results shown at once.
ROWS = 15
#: A map is drawn from 0 to this many times the pixel threshold, so that the same score has the same colour on every picture.
FULL_SCALE = 2.0


@dataclass
class Tally:
    """What has been received: counts by verdict and error word, latencies in microseconds, and gaps in the sequence."""

    verdicts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    latencies_us: deque[int] = field(default_factory=lambda: deque(maxlen=10_000))
    missing: int = 0
    pictures: list[str] = field(default_factory=list)
    _last: dict[str, int] = field(default_factory=dict)

    @property
    def received(self) -> int:
        """Results received."""
        return self.verdicts.total()

    def add(self, inspection: Inspection) -> None:
        """Count one result. A jump in the host's sequence is a result this subscriber missed."""
        self.verdicts[inspection.verdict.label] += 1
        if inspection.verdict is Verdict.NOT_DECIDABLE:
            self.errors[inspection.error.value] += 1
        self.latencies_us.append(inspection.latency_us)

    def as_json(self) -> dict[str, Any]:
        """Return the figures `edgead watch --json` ends with."""
        ordered = sorted(self.latencies_us)
        return {
            "inspections": self.received,
            "ok": self.verdicts["OK"],
            "not_ok": self.verdicts["NotOK"],
            "not_decidable": self.verdicts["NotDecidable"],
            "errors": dict(self.errors),
            "latency_ms_p50": percentile(ordered, 50),
            "latency_ms_p99": percentile(ordered, 99),
            "pictures": self.pictures,
        }


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
    """Write the map drawn over the preview (over black without one) as a PNG; None if the result has no map."""
    import numpy as np

    from runtime.answers import decode_preview
    from runtime.images import overlay, write_png

    inspection, anomaly_map = received.inspection, received.anomaly_map()
    if anomaly_map is None:
        return None
    shape = (inspection.frame_height, inspection.frame_width, 3)
    picture = decode_preview(received.preview) if received.preview else np.zeros(shape, np.uint8)
    threshold = inspection.pixel_threshold
    scale = FULL_SCALE * threshold if threshold else float(anomaly_map.max()) or 1.0
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{inspection.seq:08d}_{inspection.camera}_{_stem(inspection.source)}{inspection.verdict.label}.png"
    write_png(path, overlay(picture, anomaly_map, threshold if threshold is not None else float("inf"), scale))
    return path


def _stem(source: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).with_suffix("").as_posix()).strip("-")
    return f"{stem[-60:]}_" if stem else ""


def live_table(recent: deque[Inspection], tally: Tally, title: str) -> Table:
    """Return the table `edgead watch` shows: the latest results, newest first, and the counts."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(tally.verdicts.items()))
    table = Table(title=f"{title}: {tally.received} results{', ' if counts else ''}{counts}", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("seq", "camera", "frame", "verdict", "score", "threshold", "ms", "source / reason"):
        table.add_column(column, justify="right" if column in {"seq", "frame", "score", "threshold", "ms"} else "left")
    for each in reversed(recent):
        style = _STYLE[each.verdict]
        table.add_row(
            str(each.seq),
            each.camera,
            str(each.frame_id),
            Text(each.verdict.label, style),
            "–" if each.score is None else f"{each.score:.4f}",
            "–" if each.threshold is None else f"{each.threshold:.4f}",
            f"{each.latency_us / 1000:.1f}",
            Text(each.source if each.verdict is not Verdict.NOT_DECIDABLE else f"{each.error}: {each.error_detail}"),
        )
    return table


_STYLE = {Verdict.OK: "green", Verdict.NOT_OK: "bold red", Verdict.NOT_DECIDABLE: "bold yellow", Verdict.UNDEFINED: ""}


def watch(
    subscriber: Subscriber, *, as_json: bool, save_maps: Path | None, count: int | None, idle_s: float | None
) -> Tally:
    """Show results until ``count`` came, ``idle_s`` seconds pass without one, or Ctrl-C; return the tally."""
    from rich.console import Console
    from rich.live import Live

    from runtime.terminal import print_json

    tally, recent = Tally(), deque[Inspection](maxlen=ROWS)
    console = Console(stderr=True)
    title = subscriber.address
    with Live(live_table(recent, tally, title), console=console, auto_refresh=False, transient=as_json) as live:
        try:
            for received in subscriber.results(idle_s):
                tally.add(received.inspection)
                recent.append(received.inspection)
                if as_json:
                    print_json(as_record(received))
                if save_maps is not None and (picture := save_overlay(received, save_maps)):
                    tally.pictures.append(str(picture))
                if console.is_terminal:
                    live.update(live_table(recent, tally, title), refresh=True)
                if count is not None and tally.received >= count:
                    break
        except KeyboardInterrupt:
            pass  # Ctrl-C is how a person ends watching
        live.update(live_table(recent, tally, title), refresh=True)
    return tally
