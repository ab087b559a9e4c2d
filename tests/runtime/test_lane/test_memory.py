"""Whether two workers fit: the figures are those of the kernel, and what does not fit is refused with them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.lane.memory import MARGIN_BYTES, available_bytes, own_bytes, shortage
from runtime.lifecycle import State

MB = 1024 * 1024


def assignment(bank: int, device: str = "cpu", *, shares: bool = False) -> Any:
    """Return what is looked at of an assignment: its bank's size, its device, and whether it shares any worker."""
    template = SimpleNamespace(manifest=SimpleNamespace(bank=SimpleNamespace(size=bank)))
    return SimpleNamespace(key=("top", ""), template=template, device=device, shares_with=lambda _: shares)


def lane(bank: int, pid: int = 7, device: str = "cpu", device_memory: dict[str, int] | None = None) -> Any:
    """Return what is looked at of a lane."""
    running = assignment(bank)
    return SimpleNamespace(
        worker=SimpleNamespace(pid=pid, state=State.READY),
        assignment=running,
        template=running.template,
        setup={"device": device},
        device_memory=device_memory,
    )


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a maker of a played /proc: megabytes available, and those worker 7 holds of its own."""
    monkeypatch.setattr("runtime.lane.memory._cgroup_folders", lambda *_: [])

    def make(available: int, held: int) -> Path:
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {available * 1024} kB\n")
        (tmp_path / "7" / "status").write_text(
            f"VmRSS: 1 kB\nRssAnon:\t{held * 1024} kB\nRssFile: 9 kB\nRssShmem: 0 kB\n"
        )
        return tmp_path

    return make


def test_what_fits_and_what_does_not(machine):
    """The worker's own memory with the banks exchanged, the new one twice, and a margin: one byte less is refused."""
    needs = (300 - 50) + 2 * 100  # megabytes; a tenth of it is less than the least margin
    most = needs + MARGIN_BYTES // MB
    assert shortage(assignment(100 * MB), [lane(50 * MB)], machine(most, 300)) is None
    refusal = shortage(assignment(100 * MB), [lane(50 * MB)], machine(most - 1, 300))
    assert refusal is not None
    assert f"expected {most} MB" in refusal
    assert f"found {most - 1} MB available (MemAvailable)" in refusal
    assert "swap: stop" in refusal


def test_nothing_runs_yet(machine):
    """Without a worker to measure by, the bank itself still has to fit."""
    assert shortage(assignment(100 * MB), [lane(1, pid=None)], machine(264, 0)) is None
    assert shortage(assignment(100 * MB), [], machine(263, 0)) is not None


def test_a_worker_that_takes_one_lane_more(machine):
    """Where a running worker can be shared nothing is needed; one that ends or is not there yet is no such worker."""
    wanted, full = assignment(100 * MB, shares=True), machine(1, 300)
    assert shortage(wanted, [lane(100 * MB)], full) is None
    ending = lane(100 * MB)
    ending.worker.state = State.STOPPING
    assert shortage(wanted, [ending], full) is not None
    assert shortage(wanted, [lane(100 * MB, pid=None)], full) is not None


def test_device_memory(machine):
    """A GPU is asked for by what the workers on it found there when they were ready."""
    report = {"free": 500 * MB, "total": 1000 * MB, "used": 400 * MB}
    running = lane(MB, device="cuda:0", device_memory=report)
    proc = machine(10_000, 300)
    assert shortage(assignment(30 * MB, "cuda:0"), [running], proc) is None
    refusal = shortage(assignment(90 * MB, "cuda:0"), [running], proc)
    assert refusal is not None
    assert "on cuda:0" in refusal
    assert "found 500 MB" in refusal
    assert shortage(assignment(90 * MB), [running], proc) is None


def test_a_real_process():
    """What this process holds of its own is some of what it holds, and a process that is gone holds nothing."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    resident = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    assert 0 < own_bytes(os.getpid()) <= resident * 2
    assert own_bytes(2**22 + 1) == 0
    assert available_bytes()[0] > 0


@pytest.mark.parametrize(
    ("lines", "folder", "files"),
    [
        ("0::/a/b\n", "a", {"memory.max": "1000000", "memory.current": "900000"}),
        ("4:memory:/a\n", "memory/a", {"memory.limit_in_bytes": "1000000", "memory.usage_in_bytes": "900000"}),
    ],
    ids=["version 2", "version 1"],
)
def test_a_control_group_limits(tmp_path, lines, folder, files):
    """The tightest limit on the way up counts, of either version; pages of files that can be dropped are left."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(lines)
    (proc / "meminfo").write_text("MemAvailable: 99999999 kB\n")
    (groups / folder / "b").mkdir(parents=True)
    for name, text in files.items():
        (groups / folder / name).write_text(text + "\n")
    (groups / folder / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    available, where = available_bytes(proc, groups)
    assert available == 1_000_000 - 900_000 + 50_000
    assert str(groups / folder) in where


def test_a_control_group_without_a_limit(tmp_path):
    """A group that limits nothing leaves what the machine has."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/a\n")
    (proc / "meminfo").write_text("MemAvailable: 5 kB\n")
    (groups / "a").mkdir(parents=True)
    for name, text in {"memory.max": "max", "memory.current": "900000", "memory.stat": ""}.items():
        (groups / "a" / name).write_text(text)
    assert available_bytes(proc, groups)[0] == 5 * 1024
