"""Backbone weight files: where they lie, whether they are the pinned ones, how they get there. Imports no torch.

A weight file is used only after its sha256 was compared with the pin. A pin is the whole digest, or, where only that
is published (torchvision puts the first 8 hex digits into the file name), its beginning; with 32 bits such a pin finds
damage and mix-ups, not a forger, which is why the exact size and https are pinned beside it and why readers use
``weights_only=True``. Files that came with an installed Python package are used in place.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runtime.download import discard, download, exclusive, validator_path
from runtime.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Progress = Callable[[int, int | None], None]

State = Literal["present", "missing", "damaged", "partial"]

# Bound for a file whose size is not pinned: eight times our largest backbone (255 MB), and still little enough for an
# edge disk.
LIMIT_BYTES = 2 << 30
_PIN = re.compile(r"[0-9a-f]{8,64}")
# (path, size, mtime_ns) -> sha256: a worker asks several times per start, and hashing 255 MB costs a second on an
# edge box. In memory only: a note on disk could outlive the file it speaks of.
_DIGESTS: dict[tuple[Path, int, int], str] = {}


@dataclass(frozen=True)
class WeightFile:
    """One published weight file.

    ``sha256`` is the lower-case hex digest or its published beginning (at least 8 digits). ``size`` is in bytes.
    ``licence`` says in words under what terms the file may be used. ``package`` names an installed Python package that
    carries the file, as ``module:path/inside`` (looked up without importing it); ``url`` is then the package's page,
    and there is nothing to fetch.
    """

    name: str
    filename: str
    url: str
    sha256: str
    licence: str
    size: int | None = None
    package: str | None = None

    def __post_init__(self) -> None:
        if not _PIN.fullmatch(self.sha256):
            raise WeightsError(
                f"weights {self.name!r}: expected 8 to 64 lower-case hex digits of sha256, found {self.sha256!r}"
            )
        # The name becomes a path below the weights folder and must not lead out of it.
        if self.filename in ("", ".", "..") or Path(self.filename).name != self.filename:
            raise WeightsError(f"weights {self.name!r}: expected a plain file name, found {self.filename!r}")


def weights_dir() -> Path:
    """Return the folder of fetched and added files: $EDGEAD_WEIGHTS, else edgead/weights in the user's data home."""
    if chosen := os.environ.get("EDGEAD_WEIGHTS"):
        return Path(chosen)
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "edgead" / "weights"


def locate(weight: WeightFile) -> Path:
    """Return the path of the file, its digest verified. ``WeightsError`` when it is missing or not the pinned file."""
    found = [path for path in _candidates(weight) if path.is_file()]
    for path in found:
        if _is_pinned(weight, path):
            return path
    if found:
        raise WeightsError(f"{found[0]} is damaged: {_mismatch(weight, found[0])}; {_remedy(weight)}")
    raise WeightsError(
        f"weights {weight.name!r} need {weight.filename}, which is not on this machine; {_remedy(weight)}"
    )


def digest_of(weight: WeightFile) -> str:
    """Return the whole sha256 (64 hex digits) of the located file, for provenance; raises as ``locate`` does."""
    return _digest(locate(weight))


def state(weight: WeightFile) -> State:
    """Tell what is on this machine; ``partial`` is a download that was cut and can be resumed."""
    found = [path for path in _candidates(weight) if path.is_file()]
    if any(_is_pinned(weight, path) for path in found):
        return "present"
    if found:
        return "damaged"
    return "partial" if _part(weight).is_file() else "missing"


def match(weights: Iterable[WeightFile], file: Path) -> WeightFile:
    """Find which of the registered files this is, by content; its name does not matter.

    Raises ``WeightsError`` when the file cannot be read or is none of them.
    """
    digest, size = _digest(file), file.stat().st_size
    known = list(weights)
    fitting = [w for w in known if digest.startswith(w.sha256) and w.size in (None, size)]
    if not fitting:
        names = ", ".join(f"{w.name} ({w.filename})" for w in known)
        raise WeightsError(
            f"{file} is none of the registered weight files: sha256 {digest}, {size} bytes; registered: {names}"
        )
    return max(fitting, key=lambda w: len(w.sha256))


def add(weight: WeightFile, file: Path) -> Path:
    """Copy ``file`` into the weights folder under its registered name, verified as copied; returns the new path."""
    target = _folder() / weight.filename
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{weight.filename}.", delete=False) as copy:
        temporary = Path(copy.name)
        try:
            with file.open("rb") as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    copy.write(block)
            copy.flush()
            temporary.chmod(0o644)  # a temporary file is private; the station may run under another account
            _publish(weight, temporary, target, digest.hexdigest())
        except OSError as error:
            raise WeightsError(f"cannot copy {file} to {target}: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
    return target


def fetch(weight: WeightFile, progress: Progress | None = None) -> Path:
    """Download the file into the weights folder, resuming an earlier attempt; returns the verified path.

    A file that is already present, or belongs to an installed package, is returned without any traffic. ``progress``
    is called with (bytes on disk, bytes in all or None). Raises ``WeightsError``: a cut transfer keeps what arrived and
    running again resumes it; a wrong digest removes the file and names both digests. Nothing is ever seen under the
    final name but the pinned file.
    """
    if weight.package or state(weight) == "present":
        return locate(weight)  # which says how to install a package that is missing
    target, part = _folder() / weight.filename, _part(weight)
    with exclusive(target.with_name(f".{weight.filename}.lock")):
        download(weight.url, part, weight.size if weight.size is not None else LIMIT_BYTES, progress)
        arrived = part.stat().st_size if part.exists() else 0
        if weight.size is not None and arrived < weight.size:
            # A server that states no length ends a cut transfer like a whole one.
            raise WeightsError(
                f"{weight.url}: the transfer stopped at {arrived} of {weight.size} bytes; "
                f"run `edgead weights fetch {weight.name}` again to resume"
            )
        try:
            _publish(weight, part, target, _digest(part))
        except WeightsError:
            discard(part)
            raise
        except OSError as error:
            raise WeightsError(f"cannot move {part} to {target}: {error}") from error
        validator_path(part).unlink(missing_ok=True)
    return target


def _remedy(weight: WeightFile) -> str:
    kept = f"`edgead weights add FILE` (it is kept as {weights_dir() / weight.filename})"
    if weight.package:
        return f"install the package that carries it again ({weight.url}), or run {kept}"
    return f"run `edgead weights fetch {weight.name}`, or download {weight.url} elsewhere and run {kept}"


def _candidates(weight: WeightFile) -> list[Path]:
    paths = [weights_dir() / weight.filename]
    if weight.package:
        module, _, inside = weight.package.partition(":")
        spec = importlib.util.find_spec(module)
        paths += [Path(root) / inside for root in (spec.submodule_search_locations or [])] if spec else []
    return paths


def _part(weight: WeightFile) -> Path:
    return weights_dir() / f"{weight.filename}.part"


def _folder() -> Path:
    folder = weights_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot create the weights folder {folder}: {error}; set EDGEAD_WEIGHTS") from error
    return folder


def _is_pinned(weight: WeightFile, path: Path) -> bool:
    # The size is compared first: a truncated file is told apart without reading it.
    return weight.size in (None, path.stat().st_size) and _digest(path).startswith(weight.sha256)


def _digest(path: Path) -> str:
    try:
        status = path.stat()
        key = (path.absolute(), status.st_size, status.st_mtime_ns)
        if key not in _DIGESTS:
            with path.open("rb") as file:
                _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read weight file {path}: {error}") from error
    return _DIGESTS[key]


def _mismatch(weight: WeightFile, path: Path, digest: str | None = None) -> str:
    size = path.stat().st_size
    if weight.size not in (None, size):
        return f"expected {weight.size} bytes, found {size}"
    return f"expected sha256 {weight.sha256}, found {digest or _digest(path)}"


def _publish(weight: WeightFile, file: Path, target: Path, digest: str) -> None:
    """Move a complete file of the same folder to its final name, or refuse it; durable when this returns."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    if not digest.startswith(weight.sha256) or weight.size not in (None, file.stat().st_size):
        raise WeightsError(
            f"not {weight.filename}: {_mismatch(weight, file, digest)}; the file was not kept, get it from {weight.url}"
        )
    file.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
