"""The documents of the publishers say what the code does."""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path

import pytest

import edgead
from edgead import Publisher
from runtime.registry import load_plugins

HERE = Path(__file__).parent
_spec = util.spec_from_file_location("make_publishers_doc", HERE / "make_publishers_doc.py")
maker = util.module_from_spec(_spec)
_spec.loader.exec_module(maker)


@pytest.mark.parametrize("name", maker.TABLES)
def test_the_tables_are_the_codes(name):
    """Every table is there, and as make_publishers_doc.py writes it."""
    text = (maker.DOCS / name).read_text(encoding="utf-8")
    assert re.findall(r"<!-- table (\w+) -->", text) == list(maker.TABLES[name])
    assert text == maker.document(name), "run tests/plugins/test_publishers/make_publishers_doc.py"


def test_every_publisher_has_its_row():
    """Each publisher edgead ships stands in the list with the command that installs it."""
    text = (maker.DOCS / "publishers.md").read_text(encoding="utf-8")
    registry = load_plugins(edgead.BUILTIN_PLUGINS, entry_points=False)
    assert registry.broken == []
    for name in registry.publishers:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert registry.publisher(name).requirement in row


def test_the_example_publisher_is_one():
    """The publisher in the document is a publisher: it can be made, and its options are checked."""
    text = (maker.DOCS / "publishers.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    names = {"__name__": "example"}
    exec(compile(code, "publishers.md", "exec"), names)  # noqa: S102 - our own document
    made = {}
    names["edgead_register_publishers"](made.__setitem__)
    assert isinstance(made["print"](), Publisher)
