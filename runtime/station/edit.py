"""Changing one value of a station file and nothing else: every comment, blank line and quote stays as it is.

The place is found by ruamel, the text is changed there, and the result is read again: if it says anything but the old
station with that one value, it is refused. The file is replaced in one step, so a crash leaves the old or the new one.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from runtime.disk import durable
from runtime.errors import ConfigError, TemplateError
from runtime.station.config import Station
from runtime.station.yamlfile import check_yaml, parse_value

#: One scalar on one line, as a name is written: in either kind of quotes, or bare.
_SCALAR = re.compile(r"""(?P<quote>["'])(?:(?!(?P=quote)).)*(?P=quote)|[A-Za-z0-9][A-Za-z0-9_.-]*""")


@dataclass(frozen=True)
class StationEdit:
    """A station file before and after an edit, in bytes. Nothing is written until ``write``."""

    path: Path
    before: bytes
    after: bytes

    def write(self) -> None:
        """Replace the file in one step; ``ConfigError`` if that fails or somebody changed it meanwhile."""
        self._replace(self.before, self.after)

    def undo(self) -> None:
        """Put the old content back in one step; ``ConfigError`` as ``write``: never over somebody's later edit."""
        self._replace(self.after, self.before)

    def _replace(self, expected: bytes, content: bytes) -> None:
        if _read(self.path) != expected:
            raise ConfigError(f"{self.path}: somebody else changed it at the same time; look at it, then repeat")
        if content == expected:
            return
        try:
            mode = self.path.stat()
            durable.write_file(self.path, content, self.path.parent, mode=stat.S_IMODE(mode.st_mode))
            with contextlib.suppress(OSError):  # root edits a service user's file: it must stay that user's
                os.chown(self.path, mode.st_uid, mode.st_gid)
        except (OSError, TemplateError) as error:
            raise ConfigError(f"{self.path}: cannot be changed: {error}") from error


def edit_detector(path: Path, camera: str, detector: str) -> StationEdit:
    """Return the edit that gives a camera of a sound station file another detector.

    ``ConfigError`` for a file that is not sound, a camera it does not have, or a value that cannot be changed alone.
    """
    real = path.resolve()  # a link stays a link
    before = _read(real)
    text = _text(before, path)
    station = check_yaml(text, Station, str(path))
    if camera not in station.cameras:
        raise ConfigError(f"{path}: expected a camera of {', '.join(station.cameras)}, found {camera!r}")
    if station.cameras[camera].detector == detector:
        return StationEdit(real, before, before)
    changed = _with_value(text, ("cameras", camera, "detector"), detector)
    wanted = station.model_copy(
        update={
            "cameras": station.cameras | {camera: station.cameras[camera].model_copy(update={"detector": detector})}
        }
    )
    try:
        found = None if changed is None else check_yaml(changed, Station, str(path))
    except ConfigError:
        found = None
    if changed is None or found != wanted:
        raise ConfigError(
            f"{path}: expected `detector: NAME` on a line of its own in camera {camera}, found it shared or written in "
            f"another way: write `detector: {detector}` there by hand, then `edgead apply`"
        )
    return StationEdit(real, before, changed.encode())


def _with_value(text: str, key: tuple[str, ...], value: str) -> str | None:
    """Return the text with the scalar at ``key`` replaced, or put in where its mapping lacks it; None if it cannot."""
    mapping: Any = YAML(typ="rt").load(text)
    for each in key[:-1]:
        mapping = mapping[each]
    if not isinstance(mapping, CommentedMap) or not mapping:
        return None
    lines = text.splitlines(keepends=True)
    own = mapping.lc.data or {}  # without what `<<: *other` brings in
    if key[-1] in own:
        return _replaced(lines, mapping.lc.value(key[-1]), value)
    before = next((each for each in own if not isinstance(mapping.get(each), dict | list)), None)
    return None if before is None else _inserted(lines, mapping, before, key[-1], value)


def _replaced(lines: list[str], place: tuple[int, int], value: str) -> str | None:
    row, column = place
    found = _SCALAR.match(lines[row], column) if row < len(lines) else None
    if found is None:
        return None
    lines[row] = lines[row][:column] + _scalar(value, found["quote"] or "") + lines[row][found.end() :]
    return "".join(lines)


def _inserted(lines: list[str], mapping: CommentedMap, at: str, key: str, value: str) -> str | None:
    """Put a key in beside the key ``at``: on the next line in block style, before it in flow style ({...})."""
    row, column = mapping.lc.key(at)
    if row >= len(lines):
        return None
    line = lines[row]
    if mapping.fa.flow_style():
        quote = line[column] if line[column : column + 1] in {'"', "'"} else ""
        entry = f"{quote}{key}{quote}: {_scalar(value, quote)}, "
        lines[row] = line[:column] + entry + line[column:]
    else:
        body = line.rstrip("\r\n")
        ending = line[len(body) :]
        lines[row] = f"{body}{ending or chr(10)}{' ' * column}{key}: {_scalar(value, '')}{ending}"
    return "".join(lines)


def _scalar(value: str, quote: str) -> str:
    """Return a name as YAML text; quoted where it would otherwise be a number, a date or the like."""
    if not quote and parse_value(value) != value:
        quote = '"'
    return f"{quote}{value}{quote}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text: {error}") from error
