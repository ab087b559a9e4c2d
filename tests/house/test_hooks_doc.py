"""No hook without its documentation, its exact arguments and a test."""

import inspect
import re
from pathlib import Path

import pytest

import edgead
from runtime import hookspecs

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs" / "detector-plugin.md"
SAMPLE = REPOSITORY / "tests" / "sample_plugin"
HOOKS = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "edgead_spec")}


def test_there_are_hooks():
    """The contract file declares hooks, all with the prefix that tells them from other names."""
    assert HOOKS
    assert all(name.startswith("edgead_") for name in HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_arguments(hook):
    """docs/detector-plugin.md has a heading for the hook with its exact argument list."""
    arguments = ", ".join(inspect.signature(HOOKS[hook]).parameters)
    assert f"### `{hook}({arguments})`" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook):
    """Somewhere in the tests there is a test_hook_<name>."""
    wanted = re.compile(rf"def test_hook_{hook.removeprefix('edgead_')}\b")
    assert any(wanted.search(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("file", ["pyproject.toml", *(p.relative_to(SAMPLE).as_posix() for p in SAMPLE.rglob("*.py"))])
def test_the_tutorial_quotes_the_sample(file):
    """Every file of the sample package stands in the tutorial word for word, under its name."""
    text = (SAMPLE / file).read_text(encoding="utf-8")
    language = "toml" if file.endswith(".toml") else "python"
    assert f"`{file}`:\n\n```{language}\n{text}```\n" in DOCUMENT.read_text(encoding="utf-8")


def test_every_public_name_is_documented():
    """Each public name of edgead stands in the contract."""
    text = DOCUMENT.read_text(encoding="utf-8")
    names = [name for name in edgead.__all__ if name not in {"BUILTIN_PLUGINS", "__version__"}]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_contract_table_names_every_method():
    """Each public method and attribute of Detector has its row in the contract's table."""
    from runtime.detector import Detector

    names = [name for name in (*vars(Detector), *Detector.__annotations__) if not name.startswith("_")]
    missing = [name for name in names if f"| `{name}" not in DOCUMENT.read_text(encoding="utf-8")]
    assert missing == []
