"""The process one detector of a comparison is evaluated in: its memory is its own, and so is whatever goes wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from calibration.calibrate import CalibrationOptions
from calibration.comparison.examples import write_examples
from calibration.jobs.evaluation import EvaluationJob, evaluate_job
from runtime.errors import EdgeadError
from runtime.registry import load_plugins

#: Seconds between two reports of progress.
_EVERY_S = 0.5


def run(job: dict[str, Any], report: Callable[[Mapping[str, Any]], None]) -> None:
    """Evaluate; report progress, then ``done`` with figures and examples, or ``error``."""
    last = 0.0

    def progress(done: int, total: int, what: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > _EVERY_S:
            last = time.monotonic()
            report({"progress": [done, total, what]})

    load = os.getloadavg()[0]
    options = CalibrationOptions(device=job["device"], threads=job["threads"], seed=job["seed"])
    wanted = EvaluationJob(
        dataset=Path(job["dataset"]), detector=job["detector"], preset=job["preset"], options=options
    )
    try:
        figures, evaluation = evaluate_job(wanted, load_plugins(job["builtins"]), progress)
        examples = write_examples(evaluation, job["examples"], Path(job["folder"]), job["name"])
    except EdgeadError as error:
        report({"error": str(error)})
    except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is the row's reason
        report({"error": f"{type(error).__name__}: {error}"})
    else:
        report({"done": {"figures": figures | {"load": round(load, 2)}, "examples": examples}})


if __name__ == "__main__":
    from calibration.apart import serve

    serve(run)
