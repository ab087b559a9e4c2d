"""The command that raises one trigger by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from runtime.commands.options import Json, StationOption, address


def trigger(
    camera: Annotated[str, typer.Argument(help="Camera name, as in the station file.")],
    *,
    station: StationOption = None,
    connect: Annotated[str, typer.Option(help="Address of the station's frame socket.")] = "tcp://127.0.0.1:5601",
    trigger_id: Annotated[int | None, typer.Option("--id", min=0, help="Trigger id; default: drawn at random.")] = None,
    part: Annotated[str, typer.Option(help="Part id, up to 32 bytes.")] = "",
    recipe: Annotated[str, typer.Option(help="Recipe; default: the current one.")] = "",
    deadline: Annotated[int | None, typer.Option(min=1, help="Milliseconds, less than the station's deadline.")] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="Mark the inspection as simulated.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the receipt.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Raise a trigger ahead of its frame, as a PLC bridge does, and show its receipt.

    For cameras with `triggers: ahead`. Exit code 0 for OK and NotOK, 1 for NotDecidable or a refusal, 7 without answer.
    """
    import secrets

    from runtime.client.triggers import TriggerClient
    from runtime.inspection import Verdict
    from runtime.terminal import print_json, say

    number = secrets.randbits(63) if trigger_id is None else trigger_id
    with TriggerClient(address(station, connect, "frames")) as client:
        raised = client.raise_trigger(
            camera, number, part_id=part, recipe=recipe, deadline_ms=deadline, simulated=simulated
        )
        receipt = client.ask(raised, timeout)
    if receipt.accepted:
        why = f" ({receipt.error})" if receipt.verdict is Verdict.NOT_DECIDABLE else ""
        say(f"trigger {number}: inspection {receipt.seq}, {receipt.verdict.label}{why}")
    else:
        say(f"trigger {number}: refused ({receipt.reason})")
    if as_json:
        print_json(
            {
                "trigger_id": number,
                "accepted": receipt.accepted,
                "reason": receipt.reason,
                "seq": receipt.seq,
                "verdict": receipt.verdict.label,
                "error": receipt.error.value,
                "session": receipt.session,
                "frame_id": receipt.frame_id,
            }
        )
    raise typer.Exit(0 if receipt.verdict in (Verdict.OK, Verdict.NOT_OK) else 1)
