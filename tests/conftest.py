"""What every test gets: data finders, few torch threads, its own empty folders for weights, and a check for leaks."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.process_defaults import wait_passively

REPOSITORY = Path(__file__).parents[1]
#: Threads torch may use in tests: more would only measure the machine, and set the tests of colleagues back.
TORCH_THREADS = min(2, len(os.sched_getaffinity(0)))
#: How long a test's threads and child processes may take to end after it.
GRACE_S = 1.0
#: Python's own helper process of shared memory; it lives as long as the interpreter, by design.
LONG_LIVED = ("resource_tracker",)

# A distribution of its own, with its own tests: they run where it is installed (tests/system/test_wheel.py).
collect_ignore = ["sample_plugin"]

# Before torch is imported, and inherited by every process a test starts.
os.environ.setdefault("OMP_NUM_THREADS", str(TORCH_THREADS))
wait_passively()
# A shell that starts a suite in the background has it ignore Ctrl-C, and everything the tests start would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def find_data() -> Path:
    """Return the folder of real image sets: $EDGEAD_DATA, else shared/data beside the repository."""
    return Path(os.environ.get("EDGEAD_DATA") or REPOSITORY.parent / "shared" / "data")


def find_reference() -> Path:
    """Return the folder of recorded outputs: $EDGEAD_REFERENCE, else shared/reference beside the repository."""
    return Path(os.environ.get("EDGEAD_REFERENCE") or REPOSITORY.parent / "shared" / "reference")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave ``endurance`` out unless ``-m`` names it; skip ``data``, with the reason, where the image sets are not."""
    if "endurance" not in config.getoption("-m"):
        endurance = [item for item in items if item.get_closest_marker("endurance")]
        items[:] = [item for item in items if item not in endurance]
        config.hook.pytest_deselected(items=endurance)
    folder = find_data()
    if folder.is_dir():
        return
    skip = pytest.mark.skip(reason=f"needs the real image sets: nothing in {folder}; set EDGEAD_DATA")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of real image sets; skips where there is none. For tests marked ``data``."""
    folder = find_data()
    if not folder.is_dir():
        pytest.skip(f"needs the real image sets: nothing in {folder}; set EDGEAD_DATA")
    return folder


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """Return the folder of recorded reference outputs; skips where there is none."""
    folder = find_reference()
    if not folder.is_dir():
        pytest.skip(f"needs recorded reference outputs: nothing in {folder}; set EDGEAD_REFERENCE")
    return folder


@pytest.fixture(autouse=True)
def _few_torch_threads() -> None:
    # An engine sets the number for its whole process; the next test must not inherit it.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(TORCH_THREADS)


_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # No test reads or writes the weights, caches or settings of the person who runs it. The folders need not exist.
    root = tmp_path_factory.getbasetemp() / "homes" / str(next(_numbers))
    ours = {f"XDG_{kind}_HOME": str(root / kind.lower()) for kind in ("DATA", "CACHE", "CONFIG", "STATE")}
    before = {name: os.environ.pop(name, None) for name in (*ours, "EDGEAD_WEIGHTS")}
    os.environ.update(ours)
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind (those of wider fixtures were there before)."""
    threads, children = set(threading.enumerate()), living_children()
    yield
    give_up = time.monotonic() + GRACE_S
    while True:
        left = [thread.name for thread in threading.enumerate() if thread not in threads]
        left += [f"process {pid}: {line}" for pid, line in living_children().items() if pid not in children]
        if not left or time.monotonic() > give_up:
            break
        time.sleep(0.01)
    if left:
        pytest.fail(f"the test left behind: {', '.join(left)}")


def living_children() -> dict[int, str]:
    """Return the command line of every child process by pid, the long-lived helpers of Python aside."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return {}  # the usual case, for one system call instead of a look at every process of the machine
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state parent ...": the name may hold spaces and brackets.
            state, parent = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
            line = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (OSError, ValueError):
            continue  # it ended while we looked
        if int(parent) == os.getpid() and not any(word in line for word in LONG_LIVED):
            children[int(stat.parent.name)] = f"{line or '(ended, not waited for)'} [{state}]"
    return children
