"""Starting the command line is cheap, and it explains itself."""

import json
import subprocess
import sys
import time

import pytest

import edgead
from runtime.local import edgead_command

HEAVY = ("torch", "numpy", "pydantic", "cv2", "zmq", "scipy", "sklearn", "pluggy", "msgpack", "ruamel")
#: What tells a group that is a command by itself, as `edgead plugins` is.
_ALONE = "invoke_without_command"
COMMANDS = (
    "demo", "init", "validate", "calibrate", "extend", "evaluate", "build", "run", "camera", "trigger", "watch",
    "status", "apply", "use", "recipe", "plugins", "doctor", "bench", "replay", "publish",
    "ledger check", "ledger show", "ledger export",
    "templates list", "templates show", "templates activate", "templates rollback", "templates verify",
    "templates export", "templates import", "weights list", "weights add", "weights fetch",
    "sim chaos", "sim soak", "defects preview", "plugins check",
)  # fmt: skip
_HELP = f"""
import json, sys
sys.argv = ["edgead", *sys.argv[1:]]
import edgead
try:
    edgead.main()
except SystemExit as ended:
    print(json.dumps([ended.code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def test_help_needs_no_heavy_import(tmp_path):
    """`edgead --help` shows the commands without importing torch, numpy, pydantic or any other library of the rooms."""
    command = [sys.executable, "-P", "-c", _HELP, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert "calibrate" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


@pytest.mark.parametrize("arguments", [["plugins", "--json"], ["templates", "list"], ["status"], ["weights", "list"]])
def test_light_commands_need_no_torch(arguments, tmp_path):
    """Commands that calculate nothing do not wait for torch to be imported."""
    program = _HELP.replace(repr(HEAVY), repr(("torch",)))
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.splitlines()[-1])[1] == []


def test_help_time_is_shown(tmp_path, record_property, capsys):
    """The time `edgead --help` takes is printed, so that a slow start is seen (a shared machine is no judge)."""
    started = time.perf_counter()
    done = subprocess.run(edgead_command("--help"), cwd=tmp_path, capture_output=True, timeout=60, check=False)
    seconds = time.perf_counter() - started
    record_property("help_s", round(seconds, 3))
    with capsys.disabled():
        sys.stdout.write(f" [edgead --help: {seconds:.2f} s] ")
    assert done.returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, run):
    """--help of every command ends with 0, fits 80 columns, and says something about each option."""
    done = run(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    names = {line.split("--")[1].split()[0] for line in lines if line.startswith(("│ --", "│ *  --", "│    --"))}
    assert "help" in names
    assert f"Usage: edgead {command}" in done.out


def test_the_list_of_commands_is_whole():
    """The commands tested here are all there are."""
    whole = edgead.command_line()
    groups = {group.name: group.typer_instance for group in whole.registered_groups}
    found = [each.name or each.callback.__name__ for each in whole.registered_commands]
    found += [name for name, app in groups.items() if getattr(app.registered_callback, _ALONE, None) is True]
    found += [f"{name} {each.name}" for name, app in groups.items() for each in app.registered_commands]
    assert sorted(found) == sorted(COMMANDS)


def test_version(run):
    """`edgead --version` prints the version and nothing else."""
    done = run("--version")
    assert (done.code, done.out, done.err) == (0, f"edgead {edgead.__version__}\n", "")


@pytest.mark.parametrize("group", [(), ("templates",), ("weights",)])
def test_nothing_to_do_shows_help(group, run):
    """A group without a command shows its help and ends with 2."""
    done = run(*group)
    assert done.code == 2
    assert "Commands" in done.out + done.err
    assert "Traceback" not in done.err
