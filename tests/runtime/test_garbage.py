"""What a process has had since it began is left out of later garbage collections, and nothing else is."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from runtime.garbage import settle
from runtime.host.wake import Wake


class Kept:
    """An object that can be watched."""


@pytest.fixture(autouse=True)
def unfrozen():
    """Give what a test froze back to the collector."""
    yield
    gc.unfreeze()


def test_what_there_is_is_not_looked_at_again():
    """After ``settle`` a full collection passes over every object from before it, and takes up those made later."""
    before = Kept()
    settle()
    after = Kept()
    tracked = gc.get_objects()
    assert gc.get_freeze_count() > 1000
    assert not any(each is before for each in tracked)
    assert any(each is after for each in tracked)


def test_garbage_of_before_and_after_is_freed():
    """A cycle is freed by ``settle`` or by a collection after it; an old object goes with its last reference."""
    watched = []
    for collect in (settle, gc.collect):
        cycle = Kept()
        cycle.itself = cycle
        watched.append(weakref.ref(cycle))
        del cycle
        collect()
    old = Kept()
    watched.append(weakref.ref(old))
    settle()
    del old
    assert [each() for each in watched] == [None] * 3


def test_a_host_knows_whether_the_process_is_its_own():
    """Signals are taken, and the process is settled, where the host is the main thread; elsewhere neither."""
    wake, found = Wake(), []

    def ask():
        with wake.signals() as is_own:
            found.append(is_own)

    ask()
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    wake.close()
    assert found == [True, False]
