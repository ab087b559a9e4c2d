"""A ledger in an empty folder, and a line that fills it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from runtime.ledger import Ledger, LedgerError

HERE = Path(__file__).parent


def _load() -> ModuleType:
    # By path: the tests are no package, and the writer process loads the same file from its own folder.
    spec = util.spec_from_file_location("ledger_line", HERE / "line.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def simulator() -> ModuleType:
    """Return the module line.py."""
    return _load()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the ledger of the test lies."""
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where the evidence of the test lies."""
    return tmp_path / "state" / "evidence"


@pytest.fixture
def clock(simulator):
    """Return a clock that stands still."""
    return simulator.Clock()


@pytest.fixture
def opened(path, clock, simulator) -> Iterator:
    """Yield a function that opens the ledger again, closing it before, and returns a line on it."""
    lines: list = []

    def reopen(**options):
        for line in lines:
            line.ledger.close()
        lines[:] = [
            simulator.Line(
                Ledger(path, simulator.STATION, clock=clock, **options), clock, lines[0].frames if lines else 0
            )
        ]
        return lines[0]

    yield reopen
    for line in lines:
        with suppress(LedgerError):
            line.ledger.close()


@pytest.fixture
def line(opened):
    """Return a line on a fresh ledger."""
    return opened()
