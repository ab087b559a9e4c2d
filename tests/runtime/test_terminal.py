"""What goes to which stream, and how values look in a table."""

import json
import os
import pty
import subprocess
import sys

import pytest

from runtime import terminal
from runtime.terminal import print_json, print_record, print_table, progress_bars, say, show


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_json_is_one_line_on_stdout(capsys):
    """JSON is one line on stdout, text unescaped; what is said to people is on stderr."""
    say("hello")
    print_json({"product": "Blech für Ä", "score": 0.1, "none": None})
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out) == {"product": "Blech für Ä", "score": 0.1, "none": None}
    assert "ü" in captured.out
    assert captured.err == "hello\n"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(value):
    """NaN and infinity are no JSON: they are refused, not printed."""
    with pytest.raises(ValueError, match="JSON"):
        print_json({"score": value})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0.123456, "0.1235"),
        (123456.7, "123457"),
        (12, "12"),
        ([], "-"),
        (["a", 1], "a, 1"),
        ({}, "-"),
        ({"overload": 3, "stopping": 1}, "overload 3, stopping 1"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
    ],
)
def test_cells(value, text, capsys):
    """Values look the same in every table; text is text, not markup."""
    print_record("", {"key": value})
    assert capsys.readouterr().out.split(maxsplit=1)[1].strip() == text


def test_numbers_are_aligned_right(capsys):
    """A column of numbers is aligned right, one of words left."""
    print_table("title", ("name", "count"), [("a", 5), ("bb", 1234)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "title"
    assert lines[-2].endswith("   5")
    assert lines[-1].endswith("1234")
    assert lines[-2].startswith("  a ")


def test_long_cells_are_folded_not_cut(capsys):
    """A cell that does not fit continues on the next line: nothing is lost, nothing passes 80 columns."""
    print_record("", {"path": "x" * 200})
    out = capsys.readouterr().out
    assert out.count("x") == 200
    assert max(map(len, out.splitlines())) <= 80


def test_records_are_shown_under_headings(capsys):
    """A list of records is a table of the chosen keys under their headings; as JSON it is whatever it is."""
    records = [{"a": 1, "b": 2, "c": 3}]
    show(records, False, {"a": "first", "c": "third"})
    out = capsys.readouterr().out
    assert out.split()[:2] == ["first", "third"]
    assert "2" not in out
    show(records, True)
    assert json.loads(capsys.readouterr().out) == records


def test_progress_is_silent_where_nobody_looks(capsys, monkeypatch):
    """Where stderr is no terminal, progress prints nothing at all."""
    monkeypatch.setattr(terminal, "QUIET_S", 0.0)
    with progress_bars() as progress:
        for done in range(1000):
            progress(done, 1000, "work")
    assert capsys.readouterr() == ("", "")


def test_progress_leaves_stdout_alone(tmp_path):
    """On a terminal the bar is on stderr, and what is printed to a redirected stdout meanwhile is all there."""
    program = (
        "import runtime.terminal as t\nt.QUIET_S = 0.0\n"
        "with t.progress_bars() as progress:\n"
        "    progress(1, 2, 'work')\n    t.print_json([1])\n    progress(2, 2, 'work')\n"
    )
    leader, follower = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, stderr=follower, timeout=60, check=True)
    os.close(follower)
    drawn = os.read(leader, 100_000).decode()
    os.close(leader)
    assert (tmp_path / "out").read_text() == "[1]\n"
    assert "work: 2 in " in drawn
    assert "[1]" not in drawn
