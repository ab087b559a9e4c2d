"""What the station file says about engines, in the form a worker's first record carries it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.engines.cache import EngineCache
from runtime.engines.folder import default_folder
from runtime.engines.target import Target, available_cores
from runtime.station.config import Worker


@dataclass(frozen=True)
class EngineSettings:
    """``backend``, ``precision`` as in the station file; ``folder`` of the cache, at most ``most_mb`` MiB of it.

    ``batch``: the most frames answered at once.
    """

    backend: str
    precision: str
    folder: Path
    most_mb: int
    batch: int = 1

    @classmethod
    def of(cls, worker: Worker) -> EngineSettings:
        """Return what ``worker`` says, the folder made plain."""
        return cls(
            worker.backend, worker.precision, worker.engines or default_folder(), worker.engines_mb, worker.batch
        )

    @classmethod
    def read(cls, record: dict[str, Any]) -> EngineSettings:
        """Return what ``as_json`` gave."""
        return cls(record["backend"], record["precision"], Path(record["folder"]), record["most_mb"], record["batch"])

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "folder": str(self.folder),
            "most_mb": self.most_mb,
            "batch": self.batch,
        }

    @property
    def is_compiled(self) -> bool:
        """Whether an engine is wanted at all."""
        return self.backend != "eager"

    def target(self, device: str, threads: int) -> Target:
        """Return what is to be built; ``threads`` 0 = one per core. Only where ``is_compiled``."""
        backend = "inductor" if self.backend == "auto" else self.backend
        return Target(backend, self.precision, device, threads or available_cores())

    def cache(self) -> EngineCache:
        """Return the cache."""
        return EngineCache(self.folder, self.most_mb << 20)
