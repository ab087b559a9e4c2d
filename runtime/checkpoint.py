"""The unfinished work of a long calibration, so that a killed one goes on where it was.

One file in one folder: sha256 of the rest, then a safetensors file whose tensor ``record`` is a JSON object. It is
replaced in one step (``runtime.disk.durable``), so that it holds the last state saved whatever happens to the process.
``key`` names the work it belongs to: another one's state is refused, never continued.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.disk import canonical, tensors
from runtime.disk.durable import make_folder, translated, write_file
from runtime.errors import ConfigError, TemplateError

if TYPE_CHECKING:
    import numpy as np

_FILE = "checkpoint.edgead"
_RECORD = "record"
_DIGEST_BYTES = 32


class Checkpoint:
    """Where a detector keeps its unfinished work; ``folder`` is made when the first state is saved."""

    def __init__(self, folder: Path) -> None:
        self.file = Path(folder) / _FILE

    def save(self, key: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Replace the state: ``arrays`` of the dtypes a template may hold, ``record`` a JSON object.

        Raises ``TemplateError`` where it cannot be written; then the former state is still there.
        """
        import numpy as np

        spelt = np.frombuffer(canonical.encode({"key": key, "record": dict(record)}), np.uint8)
        data = tensors.encode({**arrays, _RECORD: spelt})
        make_folder(self.file.parent)
        write_file(self.file, hashlib.sha256(data).digest() + data, self.file.parent)

    def load(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return (arrays, record) as saved under ``key``, or None where nothing was saved yet.

        Raises ``ConfigError`` for the state of another key, ``TemplateError`` for a file that is damaged or unreadable.
        """
        with translated("read", self.file):
            try:
                data = self.file.read_bytes()
            except FileNotFoundError:
                return None
        found, rest = data[:_DIGEST_BYTES], bytearray(data[_DIGEST_BYTES:])
        if hashlib.sha256(rest).digest() != found:
            raise TemplateError(f"expected a checkpoint in {self.file}, found one damaged: delete it to begin anew")
        arrays = tensors.decode(rest, str(self.file))
        record = canonical.decode(arrays.pop(_RECORD).tobytes(), str(self.file))
        if record["key"] != key:
            raise ConfigError(
                f"expected the checkpoint in {self.file} to be of this calibration, found another's: its references, "
                "settings, seed, defects or textures were others; name another folder, or delete it to begin anew"
            )
        return arrays, record["record"]

    def clear(self) -> None:
        """Delete the state: the work is done. Nothing saved is nothing to delete."""
        with translated("delete", self.file), suppress(FileNotFoundError):
            self.file.unlink()
