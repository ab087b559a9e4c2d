"""The directions between the rooms hold, and the contracts that say so bite."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("runtime", "plugins", "calibration")
# One forbidden import for each name in each contract of pyproject.toml; test_every_contract_is_planted counts them.
PLANTED = [
    ("runtime/registry.py", "calibration.threshold", "rooms"),
    ("runtime/host/loop.py", "plugins.matching", "rooms"),
    ("runtime/station/config.py", "typer", "rooms"),
    ("calibration/threshold.py", "plugins.matching", "calibration knows no plugin"),
    ("calibration/metrics.py", "typer", "calibration knows no plugin"),
    ("plugins/hetmm/__init__.py", "runtime.store", "plugins are written as a stranger would"),
    ("plugins/matching.py", "calibration.metrics", "plugins are written as a stranger would"),
    ("plugins/resize.py", "typer", "plugins are written as a stranger would"),
]
# One import against the grain for each layer inside runtime that has one above it.
UPWARDS = [
    ("runtime/sim/soak.py", "runtime.commands.sim"),
    ("runtime/host/loop.py", "runtime.sim.soak"),
    ("runtime/changing/route.py", "runtime.host.loop"),
    ("runtime/lane/lane.py", "runtime.changing.post"),
    ("runtime/publishing/feed.py", "runtime.lane.lane"),
    ("runtime/delivery/client.py", "runtime.publishing.feed"),
    ("runtime/worker/process.py", "runtime.delivery.client"),
    ("runtime/engines/engine.py", "runtime.worker.inspector"),
    ("runtime/client/ask.py", "runtime.engines.engine"),
    ("runtime/station/config.py", "runtime.client.ask"),
    ("runtime/ledger/writer.py", "runtime.station.config"),
    ("runtime/store/objects.py", "runtime.ledger.writer"),
    ("runtime/wire/header.py", "runtime.store.objects"),
    ("runtime/disk/durable.py", "runtime.wire.header"),
]


def lint_imports(folder):
    """Run import-linter on the rooms in ``folder``, wherever edgead is installed from."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "400"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def copy(tmp_path):
    """Return a copy of the rooms to plant things in."""
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_directions_hold():
    """Runtime imports itself only, calibration no plugin by name, plugins only the front door."""
    done = lint_imports(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(("file", "module", "contract"), PLANTED, ids=[f"{f}-{m}" for f, m, _ in PLANTED])
def test_a_forbidden_import_is_refused(copy, file, module, contract):
    """An import against a direction breaks its contract, and is named."""
    path = copy / file
    path.write_text(path.read_text(encoding="utf-8") + f"\nimport {module}\n", encoding="utf-8")
    done = lint_imports(copy)
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), done.stdout + done.stderr
    importer = file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
    assert f"{importer} -> {module}" in done.stdout


def test_an_import_upwards_is_refused(copy):
    """Inside runtime no layer knows one above it: each such import breaks the contract, and is named."""
    for file, module in UPWARDS:
        path = copy / file
        path.write_text(path.read_text(encoding="utf-8") + f"\nimport {module}\n", encoding="utf-8")
    done = lint_imports(copy)
    assert re.search(r"^inside runtime.* BROKEN", done.stdout, re.MULTILINE), done.stdout + done.stderr
    for file, module in UPWARDS:
        assert f"{file.removesuffix('.py').replace('/', '.')} -> {module}" in done.stdout


def contracts(kind):
    """Return the contracts of one kind in pyproject.toml."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        return [c for c in tomllib.load(file)["tool"]["importlinter"]["contracts"] if c["type"] == kind]


def test_every_contract_is_planted():
    """Each (contract, forbidden room) of pyproject.toml has a planted import above: a new contract needs one too."""
    declared = {(c["source_modules"][0], module) for c in contracts("forbidden") for module in c["forbidden_modules"]}
    assert {(file.split("/")[0], module.split(".")[0]) for file, module, _ in PLANTED} == declared


def test_every_layer_is_planted_and_every_package_of_runtime_has_one():
    """A new package inside runtime is given its layer, and a planted import against the grain."""
    (layers,) = [c["layers"] for c in contracts("layers")]
    assert {f"runtime.{file.split('/')[1]}" for file, _ in UPWARDS} == set(layers[1:])
    packages = {f"runtime.{path.parent.name}" for path in (REPOSITORY / "runtime").glob("*/__init__.py")}
    assert packages - {"runtime.testing"} == set(layers)


def test_only_what_draws_for_a_person_uses_rich():
    """In runtime rich belongs to terminal.py and watch.py; the host and the worker must run without it."""
    statement = re.compile(r"^\s*(from|import) rich\b", re.MULTILINE)
    files = (REPOSITORY / "runtime").rglob("*.py")
    assert {path.name for path in files if statement.search(path.read_text("utf-8"))} <= {"terminal.py", "watch.py"}


def test_only_the_front_door_knows_the_commands():
    """No module of a room imports a room's commands, so typer and the terminal stay out of host, worker and plugins."""
    statement = re.compile(r"^\s*(from|import) (runtime|calibration)(\.commands| import commands)\b", re.MULTILINE)
    files = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
    found = {path.relative_to(REPOSITORY).as_posix() for path in files if statement.search(path.read_text("utf-8"))}
    assert {name for name in found if not name.startswith(("runtime/commands/", "calibration/commands"))} == set()
    assert statement.search((REPOSITORY / "edgead.py").read_text("utf-8"))
