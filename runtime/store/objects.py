"""Content-addressed files: an object is bytes, its name is their sha256, and reading it proves that it still is.

``objects/ab/cdef…`` under the store's root: two hex digits a folder, as git does, so that no folder grows without
bound. Objects are read-only (mode 0444) and never change; several templates share an equal one.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING

from runtime.disk import durable
from runtime.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The largest object: bounds what a damaged or hostile size can make us read. A bank is held in GPU memory, so it is
#: smaller; a pool of 1,000 references at 3.5 MiB each (HETMM's largest backbone, half precision) is too.
MAX_OBJECT_BYTES = 4 << 30
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether ``text`` is spelt as a sha256: 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes | bytearray) -> str:
    """Return the sha256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


class Objects:
    """The objects of one store. Reading needs no lock; ``put`` is called by the holder of the writer lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staging = root / "tmp"

    def path(self, digest: str) -> Path:
        """Return where the object lies, or would."""
        return self.root / "objects" / digest[:2] / digest[2:]

    def put(self, data: bytes | bytearray) -> str:
        """Store ``data`` durably and return its digest.

        An equal object is left alone; a damaged one of that name is replaced. Raises ``TemplateError`` for more than
        ``MAX_OBJECT_BYTES``, which ``read`` would refuse.
        """
        if len(data) > MAX_OBJECT_BYTES:
            raise TemplateError(
                f"expected an object of at most {MAX_OBJECT_BYTES} bytes, found {len(data)} to store in {self.root}; "
                "calibrate with fewer references or a smaller image size"
            )
        digest = digest_of(data)
        path = self.path(digest)
        durable.make_folder(path.parent)
        try:
            self.read(digest, len(data))
        except TemplateError:
            durable.write_file(path, data, self._staging, mode=0o444)
        else:
            # It may be the work of a process killed between rename and sync; what we write next refers to it.
            with durable.translated("sync", path.parent):
                durable.sync_folder(path.parent)
        return digest

    def read(self, digest: str, size: int | None = None) -> bytearray:
        """Return the object's bytes, proven: they have the digest asked for (and ``size`` bytes, where given).

        Raises ``TemplateError`` when it is missing, damaged, of another size, not a plain file, or cannot be read.
        """
        path = self.path(digest)
        with durable.translated("read", path):
            try:
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise TemplateError(f"{path}: expected an object, found none; {_ADVICE}") from error
            with open(handle, "rb", buffering=0) as file:  # noqa: PTH123 -- a descriptor, not a path
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_OBJECT_BYTES:
                    raise TemplateError(f"{path}: expected a plain file of at most {MAX_OBJECT_BYTES} bytes; {_ADVICE}")
                if size is not None and found.st_size != size:
                    raise TemplateError(f"{path}: expected {size} bytes, found {found.st_size}; {_ADVICE}")
                data = bytearray(found.st_size)
                rest = memoryview(data)
                while rest and (count := file.readinto(rest)):
                    rest = rest[count:]
        if (content := digest_of(data)) != digest:
            raise TemplateError(f"{path}: expected sha256 {digest}, found {content}: damaged; {_ADVICE}")
        return data

    def __iter__(self) -> Iterator[Path]:
        """Iterate over every file under ``objects/``, whatever its name, in order."""
        yield from sorted(path for path in (self.root / "objects").glob("*/*"))


_ADVICE = "import the template from an export, or calibrate again"
