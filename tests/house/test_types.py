"""Types are a test: mypy strict over the front door and the rooms."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


SAMPLE = REPOSITORY / "tests" / "sample_plugin"


def mypy(*arguments, path=""):
    """Run mypy in the repository with its own rules, and on its own files unless told otherwise."""
    command = [sys.executable, "-m", "mypy", *arguments]
    environment = {**os.environ, "MYPYPATH": str(path)}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rooms_are_fully_typed():
    """Mypy in strict mode finds nothing in edgead.py, runtime, plugins and calibration."""
    done = mypy()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_sample_plugin_fits_our_types():
    """The sample plugin, which imports only edgead, passes the same strict check."""
    done = mypy("-p", "brightness_detector", path=SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_misused_public_name_is_seen(tmp_path):
    """The public names of edgead carry their types: taking a label for a number is an error, not Any."""
    (tmp_path / "stranger.py").write_text(
        "import edgead\n\nlabel: str = edgead.Verdict.OK.label\nwrong: int = edgead.Verdict.OK.label\n"
    )
    done = mypy("-m", "stranger", "--follow-imports=silent", path=tmp_path)
    assert 'stranger.py:4: error: Incompatible types in assignment (expression has type "str"' in done.stdout
    assert "Found 1 error" in done.stdout
