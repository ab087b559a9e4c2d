"""The built wheel beside a stranger's: the command works from any folder, and plugins are found or blamed."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.system, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
SAMPLE = REPOSITORY / "tests" / "sample_plugin"
# Small plugins that are wrong in one way each, by distribution name.
BAD = {
    "acme-raises": "raise RuntimeError('licence expired')",
    "acme-misspelt": """
        from edgead import hookimpl
        @hookimpl
        def edgead_register_detector(register): ...
    """,
    "acme-wrong-argument": """
        from edgead import hookimpl
        @hookimpl
        def edgead_register_detectors(registry): ...
    """,
}
USURPER = """
    from edgead import hookimpl
    @hookimpl
    def edgead_register_detectors(register): register("brightness", lambda: None)
"""
PYPROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"
    [project]
    name = "{name}"
    version = "2.5"
    [project.entry-points.edgead]
    plug = "{module}"
    [tool.hatch.build.targets.wheel]
    include = ["{module}.py"]
"""


def call(*command, **options):
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def source_of(folder, name, code):
    """Write the source of a distribution with one plugin module; return its folder."""
    project = folder / name
    project.mkdir()
    module = name.replace("-", "_")
    (project / "pyproject.toml").write_text(dedent(PYPROJECT).format(name=name, module=module), encoding="utf-8")
    (project / f"{module}.py").write_text(dedent(code), encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Build every wheel as a user would, without the network; return their paths by distribution."""
    folder, made = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    projects = [source_of(folder, name, code) for name, code in (BAD | {"acme-usurper": USURPER}).items()]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    call(*pip, "--no-deps", "--no-build-isolation", "-w", str(made), str(REPOSITORY), str(SAMPLE), *map(str, projects))
    return {path.name.split("-")[0].replace("_", "-"): path for path in made.glob("*.whl")}


@pytest.fixture(scope="module")
def scripts(wheels, tmp_path_factory):
    """Install edgead, the sample and the bad plugins into a fresh environment; return its folder of scripts.

    The dependencies are those of the environment that runs the tests: torch is not fetched again.
    """
    home = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", str(home))
    bin_folder = home / "bin"
    site = call(str(bin_folder / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A path in a .pth file is not itself searched for .pth files, so an editable edgead of the tests stays out.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(bin_folder / "python"), "install", "--quiet", "--no-index"]
    chosen = [str(path) for name, path in wheels.items() if name != "acme-usurper"]
    call(*install, "--no-deps", "--ignore-installed", "--disable-pip-version-check", *chosen)
    return bin_folder


@pytest.fixture
def hostile(tmp_path):
    """Return a folder holding somebody else's packages of our rooms' names, all of which raise when imported."""
    for name in ("runtime", "plugins", "calibration", "configs", "brightness_detector"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the hostile package was imported')\n")
    (tmp_path / "edgead.py").write_text("raise RuntimeError('the hostile module was imported')\n")
    return tmp_path


def clean(**more):
    """Return the environment without what would show Python the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | more


def test_the_wheel_carries_what_it_needs(wheels):
    """The wheel holds the front door, the rooms, the presets and the licence, and no test or document."""
    names = zipfile.ZipFile(wheels["edgead"]).namelist()
    for needed in ("edgead.py", "runtime/host/loop.py", "plugins/hetmm/graph.py", "calibration/metrics.py"):
        assert needed in names
    assert {f"configs/{each.name}" for each in (REPOSITORY / "configs").glob("*.*") if each.suffix != ".pyc"} <= {
        *names
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"edgead.py", "runtime", "plugins", "calibration", "configs"}


def test_plugins_are_found_or_blamed_from_a_hostile_folder(scripts, hostile):
    """The command lists hetmm and the sample with its distribution, and each bad plugin with its fault."""
    listed = json.loads(call(str(scripts / "edgead"), "plugins", "--json", cwd=hostile, env=clean()).splitlines()[-1])
    detectors = {each["name"]: each for each in listed["detectors"]}
    assert detectors.keys() == {"hetmm", "cpr", "cpr-fast", "cpr-faster", "prn", "mspba", "brightness"}
    assert detectors["brightness"]["distribution"] == "edgead-brightness-detector 0.1.0"
    assert detectors["brightness"]["version"] == "1"
    faults = {each["distribution"]: each["error"] for each in listed["broken"]}
    assert faults.keys() == {f"{name} 2.5" for name in BAD}
    assert faults["acme-raises 2.5"] == "RuntimeError: licence expired"
    assert "unknown hook 'edgead_register_detector'" in faults["acme-misspelt 2.5"]
    assert "Argument(s) {'registry'}" in faults["acme-wrong-argument 2.5"]


def test_the_installed_rooms_are_the_ones_used(scripts, hostile):
    """From the hostile folder every room, the presets among them, is the installed one."""
    code = (
        "import edgead, runtime.worker.process, plugins.hetmm, calibration.metrics, configs\n"
        "from runtime.station.presets import preset_names\n"
        "assert 'hetmm' in preset_names()\n"
        "for module in (edgead, runtime, plugins, calibration, configs): print(module.__file__)"
    )
    printed = call(str(scripts / "python"), "-P", "-c", code, cwd=hostile, env=clean())
    for line in printed.splitlines():
        assert Path(line).is_relative_to(scripts.parent), line


def test_two_distributions_with_one_detector_stop(scripts, wheels, hostile, tmp_path_factory):
    """A second distribution that brings `brightness` stops the command with one line that names both."""
    extra = tmp_path_factory.mktemp("extra")
    zipfile.ZipFile(wheels["acme-usurper"]).extractall(extra)
    environment = clean(PYTHONPATH=str(extra))
    command = [str(scripts / "edgead"), "plugins", "--json"]
    done = subprocess.run(
        command, cwd=hostile, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 5
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "acme-usurper 2.5" in line
    assert "edgead-brightness-detector 0.1.0" in line


def test_the_samples_own_tests_pass(scripts, tmp_path):
    """The sample's tests pass where it is installed, with the fixture from edgead's pytest plugin, warnings errors."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for path in (SAMPLE / "tests").glob("*.py"):
        (tests / path.name).write_bytes(path.read_bytes())
    command = [str(scripts / "python"), "-P", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tests)]
    printed = call(*command, cwd=tmp_path, env=clean())
    assert " passed" in printed
    assert "skipped" not in printed
