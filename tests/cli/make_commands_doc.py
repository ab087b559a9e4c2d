"""Write docs/commands.md, the reference of every command, option and exit code, from the command line itself.

Run it from the repository after a change: ``python tests/cli/make_commands_doc.py``. ``--check`` writes nothing and
ends with 1 if the file is not current.
"""

import inspect
import sys
import typing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import typer
from typer.models import ArgumentInfo, OptionInfo

import edgead
from runtime import errors, shell

FILE = Path(__file__).parents[2] / "docs" / "commands.md"
HEAD = """\
# Commands

Written by `tests/cli/make_commands_doc.py` from the command line itself; do not edit.

What a command found goes to stdout; progress, notes and the one line of a failure go to stderr. With `--json` the last
line of stdout is one JSON value. `edgead watch --json` prints a line for every result before it. `edgead --version`
prints the version, `--help` after any command what it takes.
"""
CODES_HEAD = """\
## Exit codes

| code | meaning |
|---|---|
"""
#: Codes that are no exception of ours.
OTHER_CODES = {
    0: "Done, and what was found is good.",
    shell.INTERRUPTED: "Ctrl-C.",
    shell.TERMINATED: "SIGTERM. (`edgead run` ends in order on both signals, with 0.)",
}
ALSO = {
    1: " Also: done, but what was found is not good (see the command).",
    2: " Also: a wrong command line.",
}


def document():
    """Return the whole text."""
    return "\n".join([HEAD, _codes(), *_sections(edgead.command_line(), "edgead")])


def _codes():
    family = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.EdgeadError)]
    rows = {
        each.exit_code: f"`{each.__name__}`: {_first(each.__doc__)}{ALSO.get(each.exit_code, '')}" for each in family
    }
    return CODES_HEAD + "".join(f"| {code} | {text} |\n" for code, text in sorted((OTHER_CODES | rows).items()))


def _sections(app, path):
    """Yield a section for every command of ``app``, in the order of ``--help``, then those of its groups."""
    for command in app.registered_commands:
        yield _section(command.callback, f"{path} {command.name or command.callback.__name__}")
    for group in app.registered_groups:
        alone = group.typer_instance.registered_callback
        if getattr(alone, "invoke_without_command", None) is True:  # a group that is a command by itself
            yield _section(alone.callback, f"{path} {group.name}")
        yield from _sections(group.typer_instance, f"{path} {group.name}")


def _section(callback, path):
    parameters = [*_parameters(callback)]
    arguments = [each for each in parameters if isinstance(each.info, ArgumentInfo)]
    places = " ".join(each.names[0] if each.required else f"[{each.names[0]}]" for each in arguments)
    options = "" if len(arguments) == len(parameters) else "[OPTIONS]"
    lines = [f"## {path}", "", inspect.cleandoc(callback.__doc__), ""]
    lines += ["```", " ".join(filter(None, (path, places, options))), "```"]
    if parameters:
        lines += ["", "| name | value | meaning |", "|---|---|---|", *(each.row() for each in parameters)]
    return "\n".join([*lines, ""])


def _parameters(callback):
    hints = typing.get_type_hints(callback, include_extras=True)
    named = [each for each in inspect.signature(callback).parameters.values() if hints[each.name] is not typer.Context]
    found = [Parameter.of(each, hints[each.name]) for each in named]
    return sorted(found, key=lambda each: isinstance(each.info, OptionInfo))


@dataclass
class Parameter:
    """One argument or option."""

    info: ArgumentInfo | OptionInfo
    names: list[str]
    kind: str
    default: object

    @classmethod
    def of(cls, parameter, hint):
        """Read it from a command's signature."""
        kind, info = typing.get_args(hint)
        given = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
        long = f"--{parameter.name.replace('_', '-')}"
        names = [parameter.name.upper()] if isinstance(info, ArgumentInfo) else given or [long]
        if names[0][:2] != "--" and names[0][:1] == "-":
            names.append(long)  # only a short name was given
        return cls(info, names, _kind(kind, info), parameter.default)

    @property
    def required(self):
        """Whether the command line must have it."""
        return self.default is inspect.Parameter.empty

    def row(self):
        """Return its line of the table."""
        text = (self.info.help or "").replace("|", "\\|").replace("*", "\\*")
        if self.required and isinstance(self.info, OptionInfo):
            text += " Required."
        if not self.required and self.kind != "flag" and self.default not in {None, ""}:
            value = f"{self.default:g}" if isinstance(self.default, float) else self.default
            text += f" Default: `{value}`."
        if self.info.envvar:
            text += f" Environment: `{self.info.envvar}`."
        return f"| {', '.join(f'`{name}`' for name in self.names)} | {self.kind} | {text} |"


def _kind(hint, info):
    kinds = {bool: "flag", int: "integer", float: "number", Path: "path", str: "text", list: "text, repeatable"}
    given = next(each for each in (typing.get_args(hint) or (hint,)) if each is not type(None))
    if isinstance(given, type) and issubclass(given, Enum):
        return " or ".join(str(each.value) for each in given)
    kind = kinds[typing.get_origin(given) or given]
    return kind if info.min is None else f"{kind} >= {info.min:g}"


def _first(docstring):
    return inspect.cleandoc(docstring).splitlines()[0].replace("``", "`")


def main():
    """Write the file, or compare."""
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if FILE.exists() and FILE.read_text(encoding="utf-8") == document() else 1)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
