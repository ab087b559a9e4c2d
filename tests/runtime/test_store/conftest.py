"""A fresh store, and templates to put into it."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from runtime.store import Store

HERE = Path(__file__).parent


def _sample() -> ModuleType:
    # Loaded by path: the tests are no package, and the writer process loads the same file from its own folder.
    spec = util.spec_from_file_location("store_sample", HERE / "sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """Return the maker of small templates: ``sample.content(number)``, ``sample.put(store, number)``."""
    return _sample()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store.create(tmp_path / "store")


@pytest.fixture
def abc(store: Store, sample: ModuleType) -> list[str]:
    """Return the ids of three templates of one product and detector, the first one active."""
    digests = [sample.put(store, number).digest for number in range(3)]
    store.activate(digests[0], who="test")
    return digests
