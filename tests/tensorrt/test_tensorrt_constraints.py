"""The constraints files agree with the ranges edgead asks for, or say in their first lines that they cannot be used."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "constraints").glob("*.txt"))


def asked():
    """Return package -> requirement, of edgead and its TensorRT extras."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["tensorrt"], *extras["tensorrt-rtx"]]
    return {each.name: each for each in map(Requirement, lines)}


def pinned(path):
    """Return package -> version, of the lines that name one."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    found = {each.name: each for each in map(Requirement, lines)}
    return {
        name: Version(str(each.specifier)[2:]) for name, each in found.items() if str(each.specifier).startswith("==")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_fits_or_says_that_it_does_not(path):
    """Pins lie inside edgead's ranges, or the file says that it is not installable: no pin is silently useless."""
    ranges = asked()
    outside = [
        name for name, version in pinned(path).items() if name in ranges and version not in ranges[name].specifier
    ]
    assert bool(outside) == ("NOT INSTALLABLE" in path.read_text(encoding="utf-8")), outside


def test_every_file_is_in_the_document():
    """docs/tensorrt.md lists every platform's file, and names none that is not there."""
    text = (REPOSITORY / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z0-9.-]+\.txt)` \|", text, re.MULTILINE))
    assert named == {path.name for path in FILES}


def test_torch_and_torch_tensorrt_are_of_one_line():
    """Wherever both are pinned they share major and minor version: other pairs do not load."""
    for path in FILES:
        versions = pinned(path)
        if "torch" in versions:
            assert versions["torch"].release[:2] == versions["torch-tensorrt"].release[:2]
