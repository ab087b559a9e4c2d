"""The job behind `edgead evaluate --all`: detector after detector in processes of their own, and one page of them.

The page, a table and the record are written anew after every row, so that what is done can be seen; a run that is
broken off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.apart import EndedError, records
from calibration.calibrate import Progress
from calibration.comparison.examples import choose_examples
from calibration.comparison.page import write_comparison
from calibration.comparison.rows import Done, Row, choose_rows, failed, key_of, read_row, write_row
from calibration.dataset import read_dataset
from calibration.jobs.checks import check_device
from runtime.errors import ConfigError, PluginError
from runtime.registry import Registry

#: A detector that reports no progress for so long has stopped, even one that trains.
SILENCE_S = 3600.0
_PROCESS = "calibration.comparison.process"


@dataclass(frozen=True, kw_only=True)
class ComparisonJob:
    """What `edgead evaluate --all` was asked. ``again``: compute also what is there already."""

    dataset: Path
    report: Path
    detectors: Sequence[str] = ()
    presets: Sequence[str] = ()
    again: bool = False
    device: str = "cpu"
    threads: int = 0
    seed: int = 0

    @property
    def circumstances(self) -> dict[str, Any]:
        """What figures depend on besides detector and data set."""
        return {"device": self.device, "threads": self.threads, "seed": self.seed}


def run_comparison(
    job: ComparisonJob, registry: Registry, builtins: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Evaluate every row that is not done yet, write the report, and return its record.

    ``builtins``: modules of the shipped plugins, for the processes. Raises ``ConfigError`` for what can be known to be
    wrong before: the data set, names, presets, the report's folder. A detector that fails is a row with its reason.
    """
    check_device(job.device)
    rows = choose_rows(registry, job.detectors, job.presets)
    dataset = read_dataset(job.dataset)
    if not dataset.test:
        raise ConfigError(f"{dataset.root}: expected test images in test/good and test/<defect>, found none")
    try:
        (job.report / "rows").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--report: cannot make {job.report}: {error.strerror}; name another folder") from error
    examples = choose_examples(dataset)
    names = [sample.name for sample in examples]
    done: list[Done] = []
    record: dict[str, Any] = {}
    for row in rows:
        try:
            key = key_of(row, registry, dataset, {**job.circumstances, "examples": names})
        except PluginError as error:
            done.append(failed(row, error))
        else:
            kept = None if job.again else read_row(row, job.report, key)
            done.append(kept or _computed(row, job, names, builtins, progress))
            write_row(done[-1], job.report, key)
        record = write_comparison(done, dataset, examples, job.circumstances, job.report)
    return record


def _computed(
    row: Row, job: ComparisonJob, examples: Sequence[str], builtins: Sequence[str], progress: Progress
) -> Done:
    """Evaluate one row in a process of its own."""
    wanted = {
        "builtins": list(builtins), "dataset": str(job.dataset), "detector": row.detector, "preset": row.preset,
        "name": row.name, "examples": list(examples), "folder": str(row.file(job.report).parent), **job.circumstances,
    }  # fmt: skip
    try:
        with closing(records(_PROCESS, wanted, silence_s=SILENCE_S)) as reported:
            for record in reported:
                if "done" in record:
                    return Done(row, record["done"]["figures"], record["done"]["examples"])
                if "error" in record:
                    return Done(row, {}, (), " ".join(record["error"].split()))
                done, total, what = record["progress"]
                progress(done, total, f"{row.name}: {what}")
    except EndedError as error:
        return failed(row, error)
    return Done(row, {}, (), "the process ended without a word")
