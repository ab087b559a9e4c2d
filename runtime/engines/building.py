"""The process that builds an engine: watched, given up after a time, its words kept for whoever asks why it failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.errors import EngineError

#: Longest build in seconds. A WideResNet on a small Arm board takes several minutes.
TIMEOUT_S = 3600.0
#: Characters of a failed build's output that are shown.
TAIL = 600
_POLL_S = 0.2
Tick = Callable[[float], None]


def run_builder(
    module: str, arguments: Sequence[str], work: Path, environment: dict[str, str], tick: Tick
) -> tuple[int, str]:
    """Run ``python -m module`` to its end; return its exit code and words. ``tick(seconds)`` is called meanwhile.

    Its temporary files go to ``work``, which the caller removes: a shared folder could be anybody's and would never
    shrink. Raises ``EngineError`` after ``TIMEOUT_S``; however this ends, the process is gone.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    started, output = time.monotonic(), work / "output.txt"
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"TMPDIR": str(work)} | environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None:
                tick(time.monotonic() - started)
                if time.monotonic() - started > TIMEOUT_S:
                    raise EngineError(f"engines: building took longer than {TIMEOUT_S:g} s; use a smaller detector")
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    said = output.read_text(encoding="utf-8", errors="replace").strip()
    return process.returncode, said or "it said nothing"
