"""``edgead ledger`` and ``edgead replay``: prove, show and export what a station recorded; compute a verdict again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.commands.options import STATION, Json, StationFile, plugins_of

if TYPE_CHECKING:
    from runtime.inspection import Verdict
    from runtime.ledger import Head

app = typer.Typer(no_args_is_help=True, help="The record of a station: check, show, export. It may be running.")

OneVerdict = Annotated[str | None, typer.Option("--verdict", help="Only OK, NotOK or NotDecidable.")]
LedgerPath = Annotated[
    Path | None, typer.Option("--ledger", help="Ledger folder or file, instead of the station file's.")
]


@app.command("check")
def ledger_check(
    station: StationFile = STATION,
    ledger: LedgerPath = None,
    witness: Annotated[str, typer.Option(help="Head written down earlier (RECORD:HASH): it must still be there.")] = "",
    as_json: Json = False,
) -> None:
    """Prove that every record is there, unchanged and in order, and all is accounted for; else exit code 1.

    Prints the head of the chain: written down elsewhere, it is a witness for a later check.
    """
    from runtime.ledger import check
    from runtime.ledger.reader import head_of
    from runtime.terminal import print_json, print_record, say

    file, evidence = _places(station, ledger)
    problems = check(file, folder=evidence, witness=_witness(witness))
    listed = [{"kind": each.kind, "record": each.record, "what": each.what} for each in problems]
    record = {"ledger": str(file), "ok": not problems, **head_of(file)}
    if as_json:
        print_json(record | {"problems": listed})
    else:
        print_record("ledger", {key: value for key, value in record.items() if key != "totals"})
    for problem in problems:
        say(str(problem))
    raise typer.Exit(1 if problems else 0)


@app.command("show")
def ledger_show(
    station: StationFile = STATION,
    ledger: LedgerPath = None,
    *,
    result: Annotated[str | None, typer.Option(help="One inspection in full: its result id, or its seq.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many, the newest ones.")] = 20,
    verdict: OneVerdict = None,
    events: Annotated[bool, typer.Option("--events", help="Show events instead: restarts, refusals, ...")] = False,
    as_json: Json = False,
) -> None:
    """Show what is recorded: the newest inspections, one of them in full, or events."""
    from runtime.ledger import Reader
    from runtime.ledger.listing import EVENT_HEADINGS, HEADINGS, newest_events, newest_inspections, whole
    from runtime.terminal import show

    file, _ = _places(station, ledger)
    with Reader(file) as reader:
        if result is not None:
            show(whole(reader, result), as_json, title=f"inspection {result}")
        elif events:
            show(newest_events(reader, last), as_json, EVENT_HEADINGS, "events")
        else:
            rows = newest_inspections(reader, last, _verdict(verdict))
            headings = {key: heading for key, heading in HEADINGS.items() if key != "error"}
            show(rows if as_json else [_line(row) for row in rows], as_json, headings, "inspections")


@app.command("export")
def ledger_export(
    file: Annotated[Path, typer.Argument(help="File to write: .csv, or .jsonl for JSON lines.")],
    station: StationFile = STATION,
    ledger: LedgerPath = None,
    *,
    after: Annotated[int, typer.Option(min=0, help="Only after this seq; of events: this record.")] = 0,
    verdict: OneVerdict = None,
    events: Annotated[bool, typer.Option("--events", help="Export events instead of inspections.")] = False,
    as_json: Json = False,
) -> None:
    """Write inspections (or events) to a file, one a line, oldest first; the file appears whole or not at all."""
    from runtime.ledger import Reader
    from runtime.ledger.export import export
    from runtime.ledger.listing import event_rows, inspection_rows
    from runtime.terminal import print_json, say

    source, _ = _places(station, ledger)
    with Reader(source) as reader:
        rows = event_rows(reader, after) if events else inspection_rows(reader, after, _verdict(verdict))
        count = export(file, rows)
    say(f"{count} {'events' if events else 'inspections'} written to {file}")
    if as_json:
        print_json({"file": str(file), "count": count})


def replay(
    context: typer.Context,
    station: StationFile = STATION,
    *,
    result: Annotated[str, typer.Option(help="Result id, or seq, of the inspection.")],
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the station's.")] = None,
    as_json: Json = False,
) -> None:
    """Compute a stored verdict again from the stored frame and template; exit code 1 if a single bit differs."""
    from runtime.replay import replay as compute
    from runtime.station.config import load_station
    from runtime.terminal import show

    again = compute(load_station(station), result, plugins_of(context), device=device)
    show(again.as_json(), as_json, title=f"replay of {result}")
    raise typer.Exit(1 if again.difference else 0)


def _places(station: Path, ledger: Path | None) -> tuple[Path, Path]:
    """Return the ledger's file and its folder of evidence."""
    from runtime.errors import ConfigError
    from runtime.station.config import EVIDENCE_FOLDER, LEDGER_FILE, load_station

    if ledger is not None:
        folder = ledger if ledger.is_dir() else ledger.parent
        return (folder / LEDGER_FILE if ledger.is_dir() else ledger), folder / EVIDENCE_FOLDER
    settings = load_station(station).ledger
    if settings is None:
        raise ConfigError(f"{station}: the station keeps no ledger (`ledger: null`)")
    return settings.file, settings.evidence_folder


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """Return an inspection for a narrow table: the verdict with its error word, a time that breaks at its date."""
    error = "" if row["error"] == "none" else f" {row['error']}"
    published = str(row["published"]).replace("T", " ").removesuffix("Z")
    return row | {"verdict": f"{row['verdict']}{error}", "published": published}


def _witness(text: str) -> Head | None:
    from runtime.errors import ConfigError, LedgerError
    from runtime.ledger import Head

    try:
        return Head.parse(text) if text else None
    except LedgerError as error:
        raise ConfigError(f"--witness: {error}; give a head as `edgead ledger check` prints it") from error


def _verdict(word: str | None) -> Verdict | None:
    from runtime.errors import ConfigError
    from runtime.inspection import Verdict

    if word is None:
        return None
    labels = {each.label.lower(): each for each in (Verdict.OK, Verdict.NOT_OK, Verdict.NOT_DECIDABLE)}
    if word.lower() not in labels:
        raise ConfigError(f"expected one of {', '.join(each.label for each in labels.values())}, found {word!r}")
    return labels[word.lower()]
