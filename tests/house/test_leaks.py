"""The test bed itself: a leak is seen, and a test's folders are its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
LEAKS = {
    "thread": "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()",
    "process": "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(5)'])",
    "unreaped": "os.fork() or os._exit(0)",
    "nothing": "threading.Thread(target=print).start(); subprocess.run(['true'], check=True)",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return what pytest printed over tests that leak in each way, with the repository's conftest."""
    folder = tmp_path_factory.mktemp("leaks")
    (folder / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    bodies = [f"def test_{name}():\n    {leak}\n" for name, leak in LEAKS.items()]
    source = "import os, subprocess, sys, threading, time\n\n" + "\n".join(bodies)
    (folder / "test_leaks.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-rE", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leaking_test_fails(report, leak):
    """A test that leaves a thread or a child process behind fails, named; one that cleans up passes."""
    failed = re.search(rf"ERROR .*::test_{leak} - Failed: the test left behind: \S", report)
    assert bool(failed) is (leak != "nothing"), report


def test_folders_are_the_tests_own(tmp_path_factory):
    """A test never sees the weights, caches or settings of the person who runs it."""
    from runtime.weights import weights_dir

    assert weights_dir().is_relative_to(tmp_path_factory.getbasetemp())
    assert Path(os.environ["XDG_CACHE_HOME"]).is_relative_to(tmp_path_factory.getbasetemp())
    assert "EDGEAD_WEIGHTS" not in os.environ
