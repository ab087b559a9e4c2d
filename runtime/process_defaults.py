"""What every edgead process asks of the C libraries beneath it, before torch is loaded.

**Threads wait asleep.** The OpenMP runtime torch brings spins at the end of every parallel region by default. Beside
any other busy process (a camera, the host, a second worker) the spinning threads take the cores from the thread they
are waiting for: with two threads on two cores and one busy neighbour the backbone took 1,250 ms a frame spinning and
14 ms asleep. The runtime reads the variable once, when torch is loaded.

**Freed memory stays.** A frame's tensors, maps and messages have the same sizes frame after frame, and glibc's malloc
gives the larger ones back to the kernel each time, to be handed out and zeroed page by page for the next frame: 3,600
page faults in every frame of a compiled engine in bfloat16, a third of its time. See docs/decisions/0038.
"""

from __future__ import annotations

import ctypes
import os

VARIABLE = "OMP_WAIT_POLICY"
PASSIVE = "PASSIVE"

#: Blocks up to this size come from the heap and go back there: the most glibc takes (half of a thread's heap).
MMAP_THRESHOLD_BYTES = 32 * 1024 * 1024
#: Free memory at the end of the heap that a process may keep.
TRIM_THRESHOLD_BYTES = 64 * 1024 * 1024
#: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's <malloc.h>, with the variables by which a user sets them.
_LIMITS = (
    (-3, MMAP_THRESHOLD_BYTES, "MALLOC_MMAP_THRESHOLD_"),
    (-1, TRIM_THRESHOLD_BYTES, "MALLOC_TRIM_THRESHOLD_"),
)


def set_process_defaults() -> None:
    """Set them for this process; what the user has set stays, and a C library without them does as it did."""
    wait_passively()
    keep_freed_memory()


def wait_passively() -> None:
    """Ask for sleeping waits in this process and its children: before torch is loaded."""
    os.environ.setdefault(VARIABLE, PASSIVE)


def keep_freed_memory() -> None:
    """Have glibc keep what it was given back, within the limits above. Costs no memory that was not in use before."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl: another allocator, with habits of its own
        return
    for parameter, value, variable in _LIMITS:
        if variable not in os.environ:
            mallopt(parameter, value)
