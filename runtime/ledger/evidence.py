"""Files of evidence: the frame, anomaly map and preview an inspection was decided from, one file an inspection.

A file is one line of JSON (schema, seq, the parts' names and sizes in order), then the parts' bytes. It is written
whole and synced before the ledger records its SHA-256: ``write`` may run in any thread (it takes as long as the disk
does), ``Ledger.keep`` in the ledger's own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from runtime.disk import durable
from runtime.errors import LedgerError
from runtime.inspection import Verdict
from runtime.ledger.errors import told
from runtime.ledger.records import Kept
from runtime.wire.header import Buffer

SCHEMA = "edgead.evidence/1"
_SUFFIX = ".evidence"
_UNFINISHED = ".unfinished"
#: Files a folder: some thousand keep every file system and every person's file manager quick.
_PER_FOLDER = 1000


def path_of(folder: Path, seq: int) -> Path:
    """Return where the evidence of inspection ``seq`` lies."""
    return folder / f"{seq // _PER_FOLDER:09d}" / f"{seq:012d}{_SUFFIX}"


def write(folder: Path, seq: int, verdict: Verdict, parts: Mapping[str, Buffer]) -> Kept:
    """Write the evidence of inspection ``seq``, durably; give the answer to ``Ledger.keep``.

    ``parts``: bytes by name (``frame``: the pixels as they came, ``header``: the frame's header part, ``map``, ...).
    Raises ``LedgerFull`` or ``LedgerError``; then no file is left.
    """
    path = path_of(folder, seq)
    unfinished = path.with_name(path.name + _UNFINISHED)
    sizes = [[name, memoryview(part).nbytes] for name, part in parts.items()]
    line = json.dumps({"schema": SCHEMA, "seq": seq, "parts": sizes}, ensure_ascii=True).encode() + b"\n"
    digest = hashlib.sha256()
    size = 0
    with told("write", path):
        try:
            handle = _create(unfinished)
            try:
                for part in (line, *parts.values()):
                    flat = memoryview(part).cast("B")
                    digest.update(flat)
                    size += flat.nbytes
                    while flat:  # a call takes 2 GiB at most, and less where a signal comes
                        flat = flat[os.write(handle, flat) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            unfinished.replace(path)
            durable.sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise
    return Kept(seq, verdict, size, digest.digest())


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:  # ``unlink`` in the writer's thread has just removed the folder's last file, and it
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o644)


def read(folder: Path, kept: Kept) -> dict[str, bytes]:
    """Return the parts of an inspection's evidence by name, proven against the ledger. Raises ``LedgerError``."""
    path = path_of(folder, kept.seq)
    with told("read", path):
        data = path.read_bytes()
    found = hashlib.sha256(data).digest()
    if found != kept.sha256:
        raise LedgerError(f"{path}: expected SHA-256 {kept.sha256.hex()}, found {found.hex()}: the file was changed")
    line = data[: data.index(b"\n")]  # proven above: what was written can be read
    head = json.loads(line)
    if head["schema"] != SCHEMA:
        raise LedgerError(f"{path}: expected {SCHEMA}, found {head['schema']}: read it with the edgead that wrote it")
    at, parts = len(line) + 1, {}
    for name, size in head["parts"]:
        parts[name] = data[at : at + size]
        at += size
    return parts


def damage(folder: Path, kept: Kept) -> str:
    """Return what is wrong with an inspection's evidence, empty if nothing is; every byte is read."""
    path = path_of(folder, kept.seq)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return f"expected {path}, found no file"
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    if digest.digest() == kept.sha256:
        return ""
    return f"{path}: expected SHA-256 {kept.sha256.hex()}, found {digest.hexdigest()}"


def unlink(folder: Path, seq: int) -> int:
    """Remove the evidence of inspection ``seq``; return the bytes that were freed, 0 if there was no file."""
    path = path_of(folder, seq)
    with told("remove", path):
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        with suppress(OSError):
            path.parent.rmdir()  # the last one of its folder
    return size


def listed(folder: Path) -> Iterator[int]:
    """Yield the ``seq`` of every file of evidence; unfinished ones of a killed writer are removed on the way."""
    for path in sorted(folder.glob(f"*/*{_SUFFIX}*")):
        if path.name.endswith(_UNFINISHED):
            with suppress(OSError):
                path.unlink()
        elif path.name.removesuffix(_SUFFIX).isdigit():
            yield int(path.name.removesuffix(_SUFFIX))
