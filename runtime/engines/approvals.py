"""Which engine may answer for which template: written only after the engine passed the parity gate with it.

An approval is a small file named by everything the engine's key depends on that can be known without exporting the
program: exporting takes seconds, reading this file none. It carries the key, the template's id and the gate's report.
Whatever it says, a worker answers every golden frame again before it is ready.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.engines.cache import STALE_S, EngineCache, is_key
from runtime.engines.folder import check_owner, make_folder
from runtime.engines.target import Target, digest_of
from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.detector import Detector

FOLDER = "approved"
#: Approvals kept; each is under a kilobyte, and old templates' are worth nothing.
MOST = 4096


def approval_name(detector: Detector, template: str, shape: Sequence[int], target: Target, batch: int = 1) -> str:
    """Return the name under which an engine for ``batch`` frames (H, W, C) of one template and target is approved.

    Two things that lead to different programs have different names: the template's id covers settings, weights and
    bank; the detector's version and source text cover its code.
    """
    return digest_of(
        {
            "detector": [detector.name, detector.version, source_digest(detector)],
            "template": template,
            "shape": [batch, *shape],
            "target": target.marks(),
        }
    )


def approval(key: str, parity: Mapping[str, Any], template: str, refused: str = "") -> dict[str, Any]:
    """Return an approval's record. ``parity``: the gate's report.

    ``refused``: why the engine ``key``, for several frames at once, may not be used after all: so that nobody asks
    again at every start.
    """
    return {"key": key, "parity": dict(parity), "template": template} | ({"refused": refused} if refused else {})


def source_digest(detector: Detector) -> str:
    """Return the sha256 over the Python files of the package the detector comes from, and of ours that export it.

    A developer who edits a detector without a new version gets a new engine, not the old one.
    """
    top = type(detector).__module__.partition(".")[0]
    digest = hashlib.sha256()
    for package in sorted({top, "runtime"}):
        for path in _sources(package):
            digest.update(f"{package}/{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(package: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package) if package not in sys.modules else sys.modules[package].__spec__
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    if package == "runtime":
        roots = [root / "engines" for root in roots]
    for root in roots:
        yield from sorted(root.rglob("*.py"))
    if spec and not roots and spec.origin and Path(spec.origin).is_file():
        yield Path(spec.origin)


def read_approval(cache: EngineCache, name: str) -> Mapping[str, Any] | None:
    """Return what was approved, with its ``key``, or None; a file that is no approval counts as none."""
    path = cache.folder / FOLDER / name
    if not path.is_file():
        return None
    check_owner(path.parent)
    check_owner(path)
    return _read(path)


def write_approval(cache: EngineCache, name: str, record: Mapping[str, Any]) -> None:
    """Approve an engine: ``record`` has its ``key`` and the gate's report. Raises ``EngineError`` if it cannot."""
    cache.make()
    folder = cache.folder / FOLDER
    make_folder(folder)
    check_owner(folder)
    unfinished = folder / f".{name}.{os.getpid()}"
    try:
        unfinished.write_text(json.dumps(dict(record), sort_keys=True), encoding="utf-8")
        unfinished.chmod(0o600)
        unfinished.replace(folder / name)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise EngineError(f"engine cache: cannot write {folder / name}: {error.strerror}; free space") from error
    with suppress(OSError):  # another process tidies up as well
        _drop_stale(cache, folder)


def withdraw_approval(cache: EngineCache, name: str) -> None:
    """Take an approval back, where there is one."""
    with suppress(OSError):
        (cache.folder / FOLDER / name).unlink()


def _drop_stale(cache: EngineCache, folder: Path) -> None:
    """Remove approvals of engines that are gone, what writers that died have left, and the oldest beyond ``MOST``.

    Whoever builds or loads writes again what he misses. A refusal outlives its engine: it is there so that nobody
    builds that again at every start.
    """
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    surplus = len(files) - MOST
    for number, path in enumerate(files):
        if path.name.startswith("."):
            is_stale = time.time() - path.stat().st_mtime > STALE_S
        else:
            record = _read(path)
            is_stale = record is None or not (record.get("refused") or cache.has(record["key"]))
        if is_stale or number < surplus:
            path.unlink(missing_ok=True)


def _read(path: Path) -> Mapping[str, Any] | None:
    with suppress(OSError, ValueError):
        record = json.loads(path.read_bytes())
        if isinstance(record, dict) and isinstance(record.get("key"), str) and is_key(record["key"]):
            return record
    return None
