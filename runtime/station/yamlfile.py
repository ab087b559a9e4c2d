"""YAML 1.2 files checked by a pydantic model, with the line of every complaint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from runtime.errors import ConfigError

#: A station file is a page; a megabyte is somebody's mistake (or a billion laughs).
MAX_YAML_BYTES = 1024 * 1024
#: A few lines of nested aliases spell a billion keys; no station file has this many.
MAX_NODES = 100_000

#: Type of a fault that names its key itself.
_LOCATED = "located"

Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Return the file's content as ``model``; ``ConfigError`` lists every fault as ``file:line: where: expected``."""
    return check_yaml(_read(path), model, str(path))


def check_yaml(text: str, model: type[Model], name: str) -> Model:
    """Parse and validate ``text``; ``name`` stands in the messages where a file's path would."""
    try:
        tree = YAML(typ="rt").load(text)
        plain = _plain(tree, iter(range(MAX_NODES)))
    except RecursionError as error:
        raise ConfigError(f"{name}: expected a page of keys and values, found nesting without end") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: expected YAML 1.2, found {error.problem or 'something else'}") from error
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{name}: expected YAML 1.2: {' '.join(str(error).split())}") from error
    if not isinstance(tree, CommentedMap):
        raise ConfigError(f"{name}:1: expected a mapping of keys to values, found {type(tree).__name__}")
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        faults = [f"{name}:{_line(tree, _place(fault))}: {_sentence(fault)}" for fault in error.errors()]
        raise ConfigError("\n".join(faults)) from error


def located(key: str, sentence: str) -> PydanticCustomError:
    """Return the fault of one key for a model's own validator to raise: it gets that key's line, not the model's."""
    return PydanticCustomError(_LOCATED, "{sentence}", {"key": key, "sentence": sentence})


def parse_value(text: str) -> Any:
    """Return one YAML value written on a command line: 3, true, [[5, 3], [5, 3]], some text."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"expected a YAML value, found {text!r}") from error


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"{path}: expected at most {MAX_YAML_BYTES} bytes, found {path.stat().st_size}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; `edgead init DIR` writes a commented station file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text: {error}") from error


def _plain(node: Any, budget: Iterator[int]) -> Any:
    """Turn ruamel's position-carrying containers and scalars into plain ones for pydantic.

    Raises ``ValueError`` when the aliases expand to more than ``budget``.
    """
    if next(budget, None) is None:
        raise ValueError(f"expected at most {MAX_NODES} keys and values, found more: too many aliases")
    if isinstance(node, CommentedMap):
        return {_plain(key, budget): _plain(value, budget) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value, budget) for value in node]
    if isinstance(node, ScalarBoolean):  # what an anchored true or false becomes: an int, but it must not pass for 1
        return bool(node)
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _line(tree: CommentedMap, location: tuple[int | str, ...]) -> int:
    """Return the 1-based line of the deepest part of ``location`` that exists in the file."""
    node: Any = tree
    line = 1
    for key in location:
        if isinstance(node, CommentedMap) and key in node:
            line = node.lc.key(key)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0] + 1
        else:
            break
        node = node[key]
    return line


def _place(fault: Any) -> tuple[int | str, ...]:
    return (*fault["loc"], fault["ctx"]["key"]) if fault["type"] == _LOCATED else fault["loc"]


def _sentence(fault: Any) -> str:
    where = ".".join(str(key) for key in _place(fault)) or "the file"
    if fault["type"] == _LOCATED:
        return f"{where}: {fault['msg']}"
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key; remove it or check its spelling"
    if fault["type"] == "missing":
        return f"{where}: is missing"
    return f"{where}: {fault['msg']}, found {str(fault['input'])[:60]!r}"
