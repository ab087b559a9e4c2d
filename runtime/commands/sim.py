"""``edgead sim``: trials of a whole station on this machine, which prove what it promises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.commands.options import Json

if TYPE_CHECKING:
    from runtime.sim.verdicts import Claim

app = typer.Typer(no_args_is_help=True, help="Trials on this machine, with simulated parts: chaos, soak.")

Keep = Annotated[
    Path | None, typer.Option("--keep", help="New folder for ledger, logs and notes of the run; else they go.")
]


@app.command("chaos")
def sim_chaos(
    triggers: Annotated[int, typer.Option(min=100, help="Parts to inspect.")] = 20_000,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same number is the same script; default: a new one.")
    ] = None,
    kills: Annotated[int, typer.Option(min=0, max=100, help="SIGKILLs of the host.")] = 5,
    *,
    shared: Annotated[bool, typer.Option("--shared", help="Both cameras share one worker process.")] = False,
    keep: Keep = None,
    as_json: Json = False,
) -> None:
    """Run a station through faults of every kind and prove that nothing was lost; exit code 1 names what was.

    The detector sleeps, raises, answers nonsense, runs out of memory, is killed; the camera stalls, repeats, reorders
    and sends garbage; subscribers freeze and vanish; templates are swapped; the host is killed in mid-stream.
    """
    import secrets

    from runtime.sim.chaos import run_chaos
    from runtime.sim.verdicts import as_json as plain
    from runtime.sim.verdicts import judge
    from runtime.terminal import print_json, progress_bars, say

    number = secrets.randbelow(10**6) if seed is None else seed
    again = f"--seed {number} --triggers {triggers} --kills {kills}" + (" --shared" if shared else "")
    say(f"seed {number}: `edgead sim chaos {again}` is this run again")
    with _folder(keep) as folder, progress_bars() as progress:
        evidence, figures = run_chaos(number, triggers, kills, folder, shared=shared, progress=progress, tell=say)
        claims, more = judge(evidence)
    figures |= more
    if as_json:
        print_json({"seed": number, "triggers": triggers, "claims": plain(claims), **figures})
    else:
        _print_chaos(claims, figures, f"chaos, seed {number}")
    broken = [each for each in claims if not each.holds]
    for claim in broken:
        say(f"{claim.claim}: expected {claim.expected}, found {claim.found}: {claim.named}".rstrip(": "))
    raise typer.Exit(1 if broken else 0)


@app.command("soak")
def sim_soak(
    inspections: Annotated[int, typer.Option(min=20_000, help="Parts to inspect.")] = 1_000_000,
    keep: Keep = None,
    as_json: Json = False,
) -> None:
    """Run a station for long and see that memory, open files and disk stay flat; exit code 1 names what grows."""
    from runtime.sim.soak import machine, soak
    from runtime.terminal import print_json, print_record, progress_bars, say

    with _folder(keep) as folder, progress_bars() as progress:
        record = soak(inspections, folder, progress) | {"machine": machine()}
    if as_json:
        print_json(record)
    else:
        grown = {f"growth of {name}": each["measured"] for name, each in record["growth"].items()}
        sizes = {f"most {name}": most for name, most in record["most"].items()}
        rest = {key: record[key] for key in ("inspections", "delivered", "seconds", "per_second")}
        print_record("soak", rest | grown | sizes)
    for sentence in record["wrong"]:
        say(sentence)
    raise typer.Exit(1 if record["wrong"] else 0)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Lend an empty folder: the caller's, which stays, or one that goes."""
    import tempfile

    from runtime.errors import ConfigError

    if keep is None:
        with tempfile.TemporaryDirectory(prefix="edgead-sim-") as name:
            yield Path(name)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"expected a new folder to keep the run in, found {keep} in use; choose another")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def _print_chaos(claims: list[Claim], figures: dict[str, Any], title: str) -> None:
    from runtime.terminal import print_record, print_table

    rows = [("yes" if each.holds else "NO", each.claim, each.expected, each.found) for each in claims]
    print_table(title, ("holds", "claim", "expected", "found"), rows)
    outcomes = figures.pop("outcomes")
    print_table(
        "what became of each kind of part",
        ("part", "results", "OK", "NotOK", "NotDecidable"),
        [(kind, sum(found.values()), *_counts(found)) for kind, found in outcomes.items()],
    )
    print_record("figures", figures)


def _counts(found: dict[str, int]) -> tuple[int, int, str]:
    words = {word: number for word, number in found.items() if word not in {"OK", "NotOK"}}
    return found.get("OK", 0), found.get("NotOK", 0), ", ".join(f"{word} {number}" for word, number in words.items())
