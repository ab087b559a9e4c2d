"""Shared memory: both processes see the same bytes, no two views overlap, and nothing reaches beyond its slot."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.worker.slots import Slots


@pytest.fixture
def slots():
    """Return three slots with odd sizes."""
    made = Slots.create(3, 1001, 77)
    yield made
    made.close()


def views(slots):
    """Return every frame and answer view, whole."""
    return [
        view
        for slot in range(slots.count)
        for view in (slots.frame(slot, slots.frame_bytes), slots.answer(slot, slots.answer_bytes))
    ]


def test_views_are_disjoint(slots):
    """Filling every view with its own number leaves each number everywhere in its view."""
    for number, view in enumerate(views(slots), start=1):
        view[:] = bytes([number]) * view.nbytes
    for number, view in enumerate(views(slots), start=1):
        assert bytes(view) == bytes([number]) * view.nbytes


def test_rooms_are_large_enough_and_aligned(slots):
    """Each room holds at least what was asked for and starts on a cache line."""
    assert slots.frame_bytes >= 1001
    assert slots.answer_bytes >= 77
    for view in views(slots):
        assert np.frombuffer(view, np.uint8).ctypes.data % 64 == 0


@pytest.mark.system
def test_two_processes_see_the_same_bytes(slots):
    """What the host writes the worker reads, and what the worker answers the host reads, without a copy between."""
    slots.frame(2, 5)[:] = b"frame"
    code = (
        "import sys; from runtime.worker.slots import Slots\n"
        "slots = Slots(int(sys.argv[1]), 3, 1001, 77)\n"
        "slots.answer(2, 5)[:] = bytes(slots.frame(2, 5))[::-1]\n"
        "slots.frame(0, 3)[:] = b'own'\n"
    )
    command = [sys.executable, "-P", "-c", code, str(slots.fd)]
    subprocess.run(command, pass_fds=(slots.fd,), check=True, timeout=30)
    assert bytes(slots.answer(2, 5)) == b"emarf"
    assert bytes(slots.frame(0, 3)) == b"own"
    assert bytes(slots.frame(2, 5)) == b"frame"


@pytest.mark.parametrize(("slot", "size"), [(3, 1), (-1, 1), (0, -1), (0, 2000)])
def test_a_wrong_slot_or_size_reaches_nothing(slots, slot, size):
    """A number out of step with the other process is refused: it must not read or write another frame."""
    for room in (slots.frame, slots.answer):
        with pytest.raises(ValueError, match="expected a slot below 3"):
            room(slot, size)


@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (5, 14), reason="memory is populated from Linux 5.14 on"
)
def test_touched_slots_have_their_memory_and_others_cost_none():
    """As many slots as asked for take memory for a frame and its answer, and no more; what lies in them stays."""
    slots = Slots.create(4, 2**20, 4096)
    taken = 65_536 + slots.answer_bytes
    slots.frame(0, 3)[:] = b"abc"
    slots.touch(2, 65_536)
    assert os.fstat(slots.fd).st_blocks * 512 == 2 * taken
    assert bytes(slots.frame(0, 4)) == b"abc\0"
    slots.touch(99, 2**30)
    assert os.fstat(slots.fd).st_blocks * 512 == 4 * (slots.frame_bytes + slots.answer_bytes)
    slots.close()


def test_nothing_is_left_behind(slots):
    """The memory has no name in any file system, so a killed station leaves nothing to clean up."""
    assert str(Path(f"/proc/self/fd/{slots.fd}").readlink()).startswith("/memfd:edgead-slots")
    assert os.fstat(slots.fd).st_size == 3 * (slots.frame_bytes + slots.answer_bytes) + 64


def test_the_flag_is_seen_by_the_other_side_and_touches_no_slot(slots):
    """What one process says of its work the other reads, beside slots that are full."""
    other = Slots(os.dup(slots.fd), 3, 1001, 77)
    for view in views(slots):
        view[:] = b"\xff" * view.nbytes
    assert not slots.begun
    other.begun = True
    assert slots.begun
    slots.begun = False
    assert not other.begun
    assert all(bytes(view) == b"\xff" * view.nbytes for view in views(other))
    other.close()


def test_memory_that_cannot_be_mapped_leaves_no_descriptor():
    """More than the address space holds is an ``OSError``, and the descriptor it was for is closed again."""
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(OSError, match="Cannot allocate memory"):
        Slots.create(2**20, 2**40, 64)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_closing_with_a_view_alive_is_harmless():
    """A numpy view that outlives the slots keeps its memory; closing neither fails nor crashes."""
    slots = Slots.create(1, 64, 64)
    view = np.frombuffer(slots.frame(0, 4), np.uint8)
    slots.frame(0, 4)[:] = b"\1\2\3\4"
    slots.close()
    assert view.tolist() == [1, 2, 3, 4]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(slots.fd)
