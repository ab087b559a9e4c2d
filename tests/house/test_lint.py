"""Style is a test: what ruff refuses here it refuses on every machine."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMANDS = {"check": ["check", "--no-fix", "--output-format", "concise"], "format": ["format", "--check"]}


def ruff(*arguments, folder=REPOSITORY):
    """Run ruff over a folder with the repository's rules."""
    rules = ["--no-cache", "--config", str(REPOSITORY / "pyproject.toml")]
    # .gitignore names .venv*, but ruff reads it in a git checkout only; code in documents is laid out for reading.
    rules += ["--extend-exclude", ".venv*", "--extend-exclude", "*.md"]
    command = [sys.executable, "-m", "ruff", *arguments, *rules, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("rule", COMMANDS)
def test_the_repository_is_clean(rule):
    """Every Python file follows the rules of pyproject.toml and is formatted by ruff."""
    done = ruff(*COMMANDS[rule])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", COMMANDS)
def test_a_dirty_file_is_seen(tmp_path, rule):
    """A file with a mutable default, no types and odd spacing is refused by both commands."""
    (tmp_path / "dirty.py").write_text("def collect( x = [] ) :\n    return  x\n", encoding="utf-8")
    assert ruff(*COMMANDS[rule], folder=tmp_path).returncode == 1
