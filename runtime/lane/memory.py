"""Whether a second worker fits beside the running one: looked up before its bank is read, never found out by dying.

What the second one needs is what the first one holds of its own, with the banks exchanged; the new bank counts twice,
because its bytes and the tensors made of them are there at the same time for a moment. ``MARGIN_BYTES`` and
``MARGIN_SHARE`` on top are for frames that come meanwhile and for what is not the same from one start to the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from runtime.lane.assignment import Assignment
from runtime.lane.lane import Lane
from runtime.lifecycle import State

MARGIN_BYTES = 64 * 1024 * 1024
MARGIN_SHARE = 0.1
_MB = 1024 * 1024
#: A limit cgroup v1 writes where there is none is of this size.
_NO_LIMIT = 1 << 60


def shortage(wanted: Assignment, lanes: Iterable[Lane], proc: Path = Path("/proc")) -> str | None:
    """Return why a worker for ``wanted`` does not fit beside those of ``lanes`` that run now; None if it does.

    ``lanes``: of the station; the one it is to relieve, or else the largest, is what it is measured by.
    """
    running = [lane for lane in lanes if lane.worker.pid is not None]
    if any(lane.worker.state is not State.STOPPING and wanted.shares_with(lane.assignment) for lane in running):
        return None  # one line more to a worker that has the bank already
    alike = [lane for lane in running if lane.assignment.key == wanted.key] or running
    bank = wanted.template.manifest.bank.size
    advice = "free memory, or set `swap: stop` for this camera: frames then wait while the workers change places"
    needs = 2 * bank
    for lane in alike:
        own = max(0, own_bytes(lane.worker.pid or 0, proc) - lane.template.manifest.bank.size)
        needs = max(needs, own + 2 * bank)
    needs = _with_margin(needs)
    available, where = available_bytes(proc)
    if needs > available:
        return (
            f"expected {needs // _MB} MB for a second worker (its bank has {bank / _MB:.1f} MB), found "
            f"{available // _MB} MB {where}; {advice}"
        )
    return _device_shortage(wanted, running, bank, advice)


def _device_shortage(wanted: Assignment, running: list[Lane], bank: int, advice: str) -> str | None:
    """Compare with the device's memory as the worker that started last found it."""
    device = wanted.device
    there = [lane for lane in running if lane.setup["device"] == device and lane.device_memory is not None]
    if not there:
        return None
    reports = [lane.device_memory for lane in there if lane.device_memory is not None]
    free = min(report["free"] for report in reports)
    needs = _with_margin(max(report["used"] for report in reports) + bank)
    if needs <= free:
        return None
    return f"expected {needs // _MB} MB on {device} for a second worker, found {free // _MB} MB free; {advice}"


def _with_margin(size: int) -> int:
    return size + max(MARGIN_BYTES, int(size * MARGIN_SHARE))


def own_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the bytes a process alone holds in memory: not the pages of libraries that it shares. 0 if it is gone."""
    total = 0
    with suppress(OSError, ValueError):
        for line in (proc / str(pid) / "status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> tuple[int, str]:
    """Return the bytes this process and its children may still take, and what sets the limit, in words."""
    found = (_NO_LIMIT, "available")
    with suppress(OSError, ValueError):
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found = int(line.split()[1]) * 1024, "available (MemAvailable)"
    for folder in _cgroup_folders(proc, cgroups):
        left = _cgroup_left(folder)
        if left is not None and left < found[0]:
            found = left, f"left of the memory limit of the control group {folder}"
    return found


def _cgroup_folders(proc: Path, cgroups: Path) -> list[Path]:
    """Return the folders of this process's memory control groups, innermost first, version 1 and 2."""
    folders: list[Path] = []
    with suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = cgroups / "memory" if controllers else cgroups
            inside = root / path.lstrip("/")
            folders += [each for each in (inside, *inside.parents) if each == root or root in each.parents]
    return folders


def _cgroup_left(folder: Path) -> int | None:
    """Return what is left in one control group, pages that can be dropped counted as left; None without a limit."""
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit = (folder / limit_name).read_text(encoding="ascii").strip()
            used = int((folder / used_name).read_text(encoding="ascii"))
            cache = _inactive_file(folder)
        except (OSError, ValueError):
            continue
        if limit == "max" or int(limit) >= _NO_LIMIT:
            return None
        return max(0, int(limit) - used + cache)
    return None


def _inactive_file(folder: Path) -> int:
    for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name in ("total_inactive_file", "inactive_file"):
            return int(value)
    return 0
