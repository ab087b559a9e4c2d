"""Threads sleep while they wait and freed memory stays, in every process of edgead that runs a detector."""

import os
import subprocess
import sys

import pytest

from runtime.process_defaults import PASSIVE, VARIABLE

#: Takes and gives back eight blocks of 4 MB, as a frame's tensors are; prints the page faults of the later rounds.
FAULTS = """
import ctypes, resource
from runtime.process_defaults import set_process_defaults
set_process_defaults()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for frame in range(20):
    if frame == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(4_000_000) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 4_000_000)
    for block in blocks:
        libc.free(block)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


def run(program, **environment):
    """Run a program with none of the variables but those given; return stdout and stderr."""
    bare = {name: value for name, value in os.environ.items() if name != VARIABLE and not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=bare | environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.parametrize(("given", "found"), [(None, PASSIVE), ("ACTIVE", "ACTIVE")])
def test_passive_unless_the_user_says_otherwise(given, found):
    """The OpenMP runtime loaded with torch reports the policy edgead asked for, or the user's own."""
    program = (
        "from runtime.process_defaults import set_process_defaults; set_process_defaults(); "
        "import torch; torch.ones(8) + 1"
    )
    stderr = run(program, OMP_DISPLAY_ENV="TRUE", **({VARIABLE: given} if given else {}))[1]
    assert f"{VARIABLE} = '{found}'" in stderr


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's malloc"
)
def test_memory_given_back_is_not_faulted_in_again():
    """From its second frame on a process that needs the same memory for each has no page faults for it."""
    assert int(run(FAULTS)[0]) < 100  # of 7,800 pages


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's malloc"
)
def test_limits_of_the_user_stay():
    """Who sets malloc's limits in the environment gets them: here, every block from the kernel and back."""
    assert int(run(FAULTS, MALLOC_MMAP_THRESHOLD_="65536")[0]) > 1000
