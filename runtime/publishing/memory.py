"""Which results a publisher has handed over, remembered over its own restarts: what comes again is not told twice.

The host records acknowledgements about once a second, so after a kill some results come again. A line a result, written
at once and not synced: SIGKILL loses none; after a power cut a result may be told again, as the outbox promises.
"""

from __future__ import annotations

import os
from pathlib import Path

from runtime.disk.durable import write_file
from runtime.errors import ConfigError, TemplateError

#: More than a subscriber may have unacknowledged (256) and than a fast line makes in the second before a record.
REMEMBERED = 4096
#: The file is written anew beyond this size.
MOST_BYTES = 1024 * 1024


class Memory:
    """The ``result_id``s of what was handed over, in a file. Close it."""

    def __init__(self, path: Path) -> None:
        """Read what was remembered; ``ConfigError`` if the file cannot be used."""
        self._path = path
        self._known: dict[str, None] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_bytes() if path.exists() else b""
            # A kill while the last line was written leaves it without its end: that result is told again.
            for line in text[: text.rfind(b"\n") + 1].splitlines()[-REMEMBERED:]:
                self._known[line.decode("utf-8", "replace")] = None
            self._rewrite()
        except (OSError, TemplateError) as error:  # durable's family is the store's
            raise ConfigError(f"{path}: expected a file to remember results in, cannot be used: {error}") from error

    def __contains__(self, result_id: str) -> bool:
        return result_id in self._known

    def add(self, result_id: str) -> None:
        """Remember a result; raises ``OSError`` where the disk takes no more."""
        self._known[result_id] = None
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        line = f"{result_id}\n".encode()
        os.write(self._file, line)
        self._size += len(line)
        if self._size > MOST_BYTES:
            os.close(self._file)
            self._rewrite()

    def _rewrite(self) -> None:
        text = "".join(f"{known}\n" for known in self._known).encode()
        write_file(self._path, text, self._path.parent)
        self._size = len(text)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
