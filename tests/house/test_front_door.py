"""The front door is light: names and --help cost nothing, and the host never loads torch."""

import json
import subprocess
import sys

import pytest

import edgead

HEAVY = ("torch", "numpy", "cv2", "pydantic", "scipy", "sklearn", "zmq", "rich.progress")


def loaded(code):
    """Return the top-level modules a fresh interpreter holds after ``code``, and what it printed before."""
    tail = "\nimport sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"
    # -P: the console script, too, does not look for modules in the current directory.
    done = subprocess.run(
        [sys.executable, "-P", "-c", code + tail], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    printed, _, modules = done.stdout.rstrip().rpartition("\n")
    return set(json.loads(modules)), printed


def test_importing_the_front_door_imports_nothing_heavy():
    """`import edgead` loads none of torch, numpy, OpenCV and pydantic, nor any room."""
    modules, _ = loaded("import edgead")
    assert modules.isdisjoint(HEAVY)
    assert modules.isdisjoint({"runtime", "plugins", "calibration", "configs"})


def test_help_imports_nothing_heavy():
    """`edgead --help` answers with the list of commands, without torch, numpy, OpenCV and pydantic."""
    call = "import sys, edgead; sys.argv = ['edgead', '--help']\ntry: edgead.main()\n"
    modules, printed = loaded(call + "except SystemExit as end: assert not end.code")
    assert modules.isdisjoint({"torch", "numpy", "cv2", "pydantic"})
    for command in ("run", "calibrate", "plugins", "status"):
        assert command in printed


@pytest.mark.parametrize("name", edgead.__all__)
def test_every_public_name_resolves(name):
    """Each name of ``edgead.__all__`` can be imported from edgead, and is documented."""
    value = getattr(edgead, name)
    assert name in {"BUILTIN_PLUGINS", "__version__"} or value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    """A misspelt name fails as it does on any module, so that hasattr and tools work."""
    assert not hasattr(edgead, "Detectr")


def test_version_is_the_distributions():
    """``edgead.__version__`` and the installed distribution agree."""
    from importlib.metadata import version

    assert edgead.__version__ == version("edgead")


def test_the_host_never_imports_torch():
    """The host and everything it imports load neither torch nor a plugin nor calibration."""
    modules, _ = loaded("import runtime.host.loop")
    assert "runtime.lane.lane" in modules
    assert modules.isdisjoint({"torch", "plugins", "calibration", "typer", "rich", "runtime.engines.engine"})
