"""Commands around a running station: make, check and run one, send it frames, watch it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.commands.options import STATION, Json, StationFile, StationOption, address, plugins_of


def init(folder: Annotated[Path, typer.Argument(help="New folder for the station.")]) -> None:
    """Make a folder with a commented station file, an empty template store and a place for good pictures."""
    from runtime.station.scaffold import make_station
    from runtime.terminal import say

    say(make_station(folder))


def validate(
    context: typer.Context,
    station: StationFile = STATION,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of station files instead.")] = False,
    as_json: Json = False,
) -> None:
    """Check a station file, its addresses, store and templates; exit code 2 and every fault, with its line."""
    from runtime.preflight import check_station
    from runtime.station.config import station_schema
    from runtime.terminal import print_json, show

    if schema:
        print_json(station_schema())
        return
    report = check_station(station, plugins_of(context))
    show(report.as_json() if as_json else report.checks, as_json, ("check", "ok", "detail"), str(station))
    raise typer.Exit(0 if report.ok else 2)


def run(
    context: typer.Context,
    station: StationFile = STATION,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log refused messages too.")] = False,
) -> None:
    """Run a station until Ctrl-C or SIGTERM; then answer what is in hand and end.

    Compiled engines the station file asks for are built first where they are missing; see `edgead build`.
    """
    import logging

    from runtime.engines.ahead import prepare
    from runtime.host.loop import Host
    from runtime.publishing.supervisor import Publishers
    from runtime.station.config import load_station
    from runtime.terminal import say

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    loaded, builtins = load_station(station), context.find_root().obj
    if told := prepare(station, builtins):
        say(told)
    host = Host(loaded, builtins, station)
    with Publishers(loaded, station.resolve().parent, builtins) as publishers:  # they outlive the host's last result
        host.publishers, host.changeover.applied = publishers.status, publishers.apply
        host.run()
    status = host.status()
    refused = sum(status["refused"].values())
    say(f"{status['frames']} frames, {status['inspections']} inspections, {refused} refused messages")


def camera(
    source: Annotated[str, typer.Argument(help="Folder to replay, video file, device number or stream URL.")],
    *,
    station: StationOption = None,
    connect: Annotated[str, typer.Option(help="Address of the station's frame socket.")] = "tcp://127.0.0.1:5601",
    name: Annotated[str, typer.Option(help="Camera name, as in the station file.")] = "top",
    rate: Annotated[float, typer.Option(min=0, help="Frames a second; 0 = as fast as --window allows.")] = 0.0,
    window: Annotated[int, typer.Option(min=0, help="Most frames on their way; 0 = do not wait (a live camera).")] = 4,
    loop: Annotated[bool, typer.Option("--loop", help="Replay the folder or video for ever.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    checksum: Annotated[bool, typer.Option("--checksum", help="Send a CRC-32 of the pixels.")] = False,
    simulated: Annotated[bool, typer.Option("--simulated", help="Mark every frame as simulated.")] = False,
    part_prefix: Annotated[str, typer.Option(help="Number the parts: PREFIX000000, ...")] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the station.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Send images: a folder replayed, or what OpenCV opens. Exit code 1 if a frame is refused, 7 if a camera fails.

    Frames without a receipt are sent again to a station that went away and came back before the timeout.
    """
    from runtime.camera import CameraOptions, send_source
    from runtime.terminal import print_json, say

    options = CameraOptions(
        name=name, address=address(station, connect, "frames"), rate=rate, window=window, timeout_s=timeout,
        checksum=checksum, simulated=simulated, part_prefix=part_prefix,
    )  # fmt: skip
    count = send_source(source, options, loop=loop, limit=limit)
    words = [f"{number} {word}" for word, number in sorted(count.verdicts.items())]
    words += [f"{number} refused ({word})" for word, number in sorted(count.refused.items())]
    say(f"{count.sent} frames sent, {count.answered} answered: {', '.join(words)}")
    if as_json:
        print_json(count.as_json())
    raise typer.Exit(0 if count.sent == count.answered and not count.refused else 1)


def watch(
    *,
    station: StationOption = None,
    connect: Annotated[str, typer.Option(help="Address of the station's result socket.")] = "tcp://127.0.0.1:5602",
    save_maps: Annotated[Path | None, typer.Option(help="Write every map as an overlay PNG into this folder.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many results.")] = None,
    idle: Annotated[float | None, typer.Option(min=0.1, help="Stop after this many seconds without a result.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each result as a JSON line, then the totals.")] = False,
) -> None:
    """Show a station's results as they come. Exit code 1 if fewer than --count came, 7 if none did."""
    from runtime.client import watch as room
    from runtime.client.subscriber import Subscriber
    from runtime.terminal import print_json

    with Subscriber(address(station, connect, "results")) as subscriber:
        tally = room.watch(subscriber, as_json=as_json, save_maps=save_maps, count=count, idle_s=idle)
    if as_json:
        print_json(tally.as_json())
    raise typer.Exit(0 if count is None or tally.received >= count else 1)


def status(
    station: StationOption = None,
    connect: Annotated[str, typer.Option(help="Address of the station's status socket.")] = "tcp://127.0.0.1:5603",
    as_json: Json = False,
) -> None:
    """Ask a running station how it is; exit code 0 only when it is ready, 7 when nothing answers."""
    from runtime.client.subscriber import ask_status
    from runtime.terminal import print_json

    answer = ask_status(address(station, connect, "status"))
    if as_json:
        print_json(answer)
    else:
        _print_status(answer)
    raise typer.Exit(0 if answer["ready"] else 1)


#: What the table of subscribers shows of each, with headings that fit 80 columns; --json has the rest.
_SUBSCRIBER = {
    "name": "subscriber",
    "connected": "connected",
    "responds": "responds",
    "acked": "acked",
    "lag": "lag",
    "oldest_unacked_s": "oldest, s",
    "gap": "gap",
}


def _print_status(answer: dict[str, Any]) -> None:
    """Print a station's status as tables: the station, its ledger, its deliveries, each camera, recipes, swaps."""
    from runtime.commands.swap_tables import print_swaps
    from runtime.terminal import print_record, show

    ledger, deliveries = answer.get("ledger"), answer.get("deliveries")
    parts = ("ledger", "deliveries", "publishers", "cameras", "applies", "swaps")
    own = {key: value for key, value in answer.items() if key not in parts}
    off = {key: "off" for key in parts if key in answer and answer[key] is None}
    print_record(f"station {answer['station']}", own | off)
    if ledger is not None:
        print_record("ledger", {key: None if value == "" else value for key, value in ledger.items()})
    if deliveries is not None:
        subscribers = deliveries.get("subscribers", {})
        rest = {key: value or None for key, value in deliveries.items() if key != "subscribers"}
        print_record("deliveries", {"subscribers": len(subscribers), **rest})
        if subscribers:
            show([{"name": name, **each} for name, each in subscribers.items()], False, _SUBSCRIBER)
    for name, each in answer.get("publishers", {}).items():
        shown = {key: value or None for key, value in each.items() if key != "figures"}
        print_record(f"publisher {name}", {**shown, **each["figures"]})
    for name, lane in answer["cameras"].items():
        print_record(f"camera {name}", {key: value for key, value in lane.items() if key != "recipes"})
    print_swaps(answer)
