"""Where engines lie, and why nobody else may write there: loading one runs the code in it.

A compiled engine is machine code. Whoever can write into the cache runs code as the station's user, so a folder or
file that others may change is refused, as ssh refuses such a key file. Digests in the same folder could be forged with
the engine; they tell damage, not malice.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runtime.errors import EngineError

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def default_folder() -> Path:
    """Return edgead/engines in the user's state home."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "edgead" / "engines"


def make_folder(folder: Path) -> None:
    """Create ``folder`` for its owner alone (0700), and its missing parents.

    Raises ``EngineError`` where that is not possible.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"engine cache: expected to create {folder}, found {error.strerror}; set worker.engines in the station "
            "file to a folder this user may write"
        ) from error


def check_owner(path: Path) -> None:
    """Raise ``EngineError`` unless ``path`` is this user's (or root's), no symbolic link, and no one else may write it.

    For folder, entry and file alike; the parents of the cache are checked by ``check_parents``.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise EngineError(f"engine cache: cannot look at {path}: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise EngineError(f"engine cache: expected {path} to be no symbolic link: a link can be led elsewhere")
    if found.st_uid not in {os.geteuid(), 0}:
        raise EngineError(
            f"engine cache: expected {path} to belong to user {os.geteuid()} or root, found user {found.st_uid}: "
            "engines are machine code, only the station's own user may make them; remove it or choose another folder"
        )
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise EngineError(
            f"engine cache: expected no one but the owner to write {path}, found mode {stat.filemode(found.st_mode)}: "
            f"engines are machine code; remove what is in it and `chmod go-w {path}`"
        )


def check_parents(folder: Path) -> None:
    """Raise ``EngineError`` if any user may rename ``folder`` away and put another in its place."""
    for parent in folder.absolute().parents:
        try:
            mode = parent.stat().st_mode
        except OSError as error:
            raise EngineError(f"engine cache: cannot look at {parent}: {error.strerror}") from error
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise EngineError(
                f"engine cache: expected {parent} not to be writable by everyone, found mode {stat.filemode(mode)}: "
                "engines are machine code; set worker.engines in the station file to another folder"
            )
