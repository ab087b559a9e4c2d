"""The reference of the commands is generated, and current."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "tests" / "cli" / "make_commands_doc.py"


@pytest.fixture(scope="module")
def text():
    """Return the reference."""
    return (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")


def test_the_reference_is_current():
    """docs/commands.md is what the command line says today; if not, run tests/cli/make_commands_doc.py."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"run `python {SCRIPT.relative_to(REPOSITORY)}` {done.stderr}"


def test_every_option_of_the_help_is_in_it(text, run):
    """Whatever --help of a command shows as an option, the section of that command has in its table."""
    for command in ("calibrate", "evaluate", "camera", "watch", "templates rollback", "bench"):
        section = text.partition(f"## edgead {command}\n")[2].partition("\n## ")[0]
        shown = {word for word in run(*command.split(), "--help").out.split() if word.startswith("--")} - {"--help"}
        assert shown, command
        # Words of a help text may name another option; those of this command start a line of the table.
        assert {name for name in shown if f"`{name}`" not in section} <= {"--window", "--count"}, command


def test_every_exit_code_is_in_it(text):
    """Every exit code an exception of the family carries has a line."""
    from runtime import errors

    codes = {each.exit_code for each in vars(errors).values() if isinstance(each, type)}
    assert {code for code in codes if f"\n| {code} | " not in text} == set()
