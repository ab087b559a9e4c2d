"""How long a worker takes from its start to its first result, and how much memory: measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runtime.errors import EngineError

#: Longest a fresh process may take to its first result and its end.
_TIMEOUT_S = 600.0


def first_result(setup: Mapping[str, Any]) -> tuple[float, int]:
    """Return (seconds from starting a process to its first result, its largest memory in MiB).

    ``setup``: the record a worker loads from (``runtime.worker.process.load``). The frame is the first golden one.
    Raises ``EngineError`` with the end of what the process said where it fails.
    """
    started = time.monotonic()
    command = [sys.executable, "-P", "-c", _FRESH, json.dumps(dict(setup))]
    with (
        tempfile.TemporaryFile() as said,  # a pipe nobody empties would hold up a process that says much
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        watch = threading.Timer(_TIMEOUT_S, process.kill)
        watch.start()
        try:
            out = process.stdout.readline() if process.stdout else ""  # as soon as the result is there
            first_s = time.monotonic() - started
            process.wait()
        finally:
            watch.cancel()
            process.kill()
        said.seek(0)
        words = said.read().decode("utf-8", "replace").split()
    if process.returncode != 0 or not out:
        raise EngineError(f"bench: a fresh worker failed within {_TIMEOUT_S:g} s: {' '.join(words)[-300:]}")
    return first_s, round(int(out) / 1024)


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep one core busy with another process, as a camera driver or the host might."""
    program = "import os, sys\nparent = int(sys.argv[1])\nwhile os.getppid() == parent:\n sum(range(100_000))\n"
    process = subprocess.Popen([sys.executable, "-P", "-c", program, str(os.getpid())], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


_FRESH = """
import json, resource, sys
from runtime.process_defaults import set_process_defaults
set_process_defaults()
from pathlib import Path
from runtime.store import Store
from runtime.worker.process import load
setup = json.loads(sys.argv[1])
chosen = load(setup)
chosen.engine.infer(Store(Path(setup["store"])).template(setup["template"]).golden()[0].frame)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""
