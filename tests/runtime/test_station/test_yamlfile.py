"""YAML files: every fault with its line, nothing taken for something else, nothing that eats the machine."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from runtime.errors import ConfigError
from runtime.station.yamlfile import MAX_YAML_BYTES, check_yaml, load_yaml, parse_value


class Page(BaseModel):
    """A file with one typed key, one list of maps and one free key."""

    model_config = ConfigDict(extra="forbid", strict=True)

    count: int = 0
    flag: bool = False
    parts: list[dict[str, int]] = []
    free: Any = None


def faults(text):
    """Return the lines of the message about ``text``."""
    with pytest.raises(ConfigError) as refusal:
        check_yaml(text, Page, "page.yaml")
    return str(refusal.value).splitlines()


def free(text):
    """Return what the value ``text`` is read as."""
    return check_yaml(f"free: {text}\n", Page, "page.yaml").free


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("0x10", 16),
        ("012", 12),
        ("1e3", 1000.0),
        ("'3'", "3"),
        ("~", None),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("&x true", True),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_values_are_read_as_yaml_1_2(text, value):
    """NO, yes and on are text, 012 is twelve, and what comes out is plain Python, not the parser's own types."""
    found = free(text)
    assert found == value
    assert type(found) is type(value)


def test_faults_are_all_listed_with_their_lines():
    """Three faults in one file are three lines, each with file, line, place and what was found."""
    text = "# comment\ncount: many\nparts:\n  - a: 1\n  - b: x\n\nfre: 1\n"
    assert faults(text) == [
        "page.yaml:2: count: Input should be a valid integer, found 'many'",
        "page.yaml:5: parts.1.b: Input should be a valid integer, found 'x'",
        "page.yaml:7: fre: unknown key; remove it or check its spelling",
    ]


def test_an_anchored_true_is_no_number():
    """A boolean behind an anchor stays a boolean: it does not pass for the number one."""
    assert "valid integer" in faults("count: &x true\n")[0]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("count: 1\ncount: 2\n", 2, "duplicate key"),
        ("count: [1\n", 2, "expected YAML 1.2"),
        ("a: b: c\n", 1, "expected YAML 1.2"),
        ("count: 1\n---\ncount: 2\n", 2, "another document"),
        ("- 1\n", 1, "expected a mapping"),
        ("", 1, "expected a mapping"),
        ("free: *nowhere\n", 1, "undefined alias"),
        ("count: 1\n\tflag: true\n", 2, "expected YAML 1.2"),
    ],
)
def test_what_is_no_mapping_of_keys_names_its_line(text, line, words):
    """Broken YAML, a key given twice, a list or an empty file is refused at its line."""
    [fault] = faults(text)
    assert fault.startswith(f"page.yaml:{line}: ")
    assert words in fault


def test_a_control_character_is_refused():
    """A NUL byte, as a file cut by a power failure has, is a fault of the file and not of the program."""
    assert faults("count: \x00\n")[0].startswith("page.yaml: expected YAML 1.2")


@pytest.mark.parametrize(
    "text",
    [
        "free: " + "[" * 400 + "]" * 400,
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ],
    ids=["deep nesting", "billion laughs"],
)
def test_a_file_that_expands_without_end_is_refused(text):
    """A few lines that spell an endless value are a fault of the file; memory and stack stay as they are."""
    assert "without end" in faults(text)[0] or "too many aliases" in faults(text)[0]


def test_tags_construct_nothing():
    """A Python tag is text without power: it is refused where a number is expected, and nothing runs."""
    assert "valid integer" in faults("count: !!python/object/apply:os.getpid []\n")[0]


def test_unreadable_files_name_the_path(tmp_path):
    """A file that is missing, not UTF-8, a folder, or absurdly large is refused with its path."""
    binary, large = tmp_path / "binary.yaml", tmp_path / "large.yaml"
    binary.write_bytes(b"count: \xff\n")
    large.write_bytes(b"#" * (MAX_YAML_BYTES + 1))
    missing = tmp_path / "missing.yaml"
    for path, words in (
        (missing, "no such file"),
        (binary, "UTF-8"),
        (tmp_path, "cannot be read"),
        (large, "at most 1048576 bytes"),
    ):
        with pytest.raises(ConfigError, match=words) as refusal:
            load_yaml(path, Page)
        assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("true", True), ("[[5, 3], [7, 3]]", [[5, 3], [7, 3]]), ("NO", "NO"), ("a b", "a b")]
)
def test_command_line_values_are_yaml(text, value):
    """A value on the command line reads as it would in a file."""
    assert parse_value(text) == value


def test_a_broken_command_line_value_is_quoted_back():
    """A value that is no YAML is refused and shown."""
    with pytest.raises(ConfigError, match=r"found '\[1,'"):
        parse_value("[1,")
