"""Files stay short, say nothing about the machine they were written on, and carry their data with them."""

import re
import statistics
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("runtime", "plugins", "calibration")
MOST_LINES = 600
MEDIAN_LINES = 150
# Absolute paths of somebody's machine, but for "me", whom nobody is called. /dev, /proc, /run, /tmp and /etc mean the
# same everywhere.
MACHINE_PATH = re.compile(r"(?<![\w.:/}-])/(opt|home|root|mnt|Users|srv)/(?!me\b)\w|[A-Z]:\\Users\\")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ".cfg", ".txt", ""}


def sources():
    """Return every Python file of the rooms and the front door."""
    return [REPOSITORY / "edgead.py", *(path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py")))]


def kept():
    """Return every file git keeps or would keep; all files where this is no checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode == 0:
        return [path for name in done.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]
    paths = (path for path in REPOSITORY.rglob("*") if path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(REPOSITORY).parts)]


def test_no_file_is_too_long():
    """No file of the rooms passes 600 lines, and half of them stay below 150."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}
    assert statistics.median(lengths.values()) < MEDIAN_LINES


def test_no_file_names_a_machine():
    """No code, document or configuration carries a path of the machine it was written on."""
    found = []
    for path in kept():
        if path.suffix in TEXT and path != Path(__file__):
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if MACHINE_PATH.search(line):
                    found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_machine_paths_are_seen():
    """The pattern above finds a path in prose, in a string and on Windows, and lets system paths and URLs pass."""
    for line in ("see /home/ann/edgead", 'Path("/mnt/data")', "`/srv/x`", r"C:\Users\ann"):
        assert MACHINE_PATH.search(line), line
    for line in ("/dev/video0", "ipc:///run/edgead/frames", "https://example.org/home/x", "docs/srv/x", "/proc/self"):
        assert not MACHINE_PATH.search(line), line


def test_every_room_is_a_package_with_a_purpose():
    """Every room, and every package in it, opens with a docstring that says what it is for."""
    for room in (*ROOMS, "configs"):
        for package in {path.parent for path in (REPOSITORY / room).rglob("*.py")}:
            assert (package / "__init__.py").read_text(encoding="utf-8").startswith(('"""', 'r"""')), package
