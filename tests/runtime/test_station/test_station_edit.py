"""An edit changes one value of a station file; what a person wrote around it stays, whatever happens meanwhile."""

from __future__ import annotations

import difflib
import importlib.resources
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.station import edit as station_edit
from runtime.station.config import Station, load_station
from runtime.station.edit import edit_detector
from runtime.station.yamlfile import check_yaml

HEAD = "schema: edgead.station/1\nstation: line1\n"
SHIPPED = importlib.resources.files("configs").joinpath("station.yaml").read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a station file and returns its path."""

    def written(text):
        path = tmp_path / "station.yaml"
        path.write_bytes(text.encode())
        return path

    return written


def detector_of(text, camera="top"):
    """Return a camera's detector in the text of a station file."""
    return check_yaml(text, Station, "text").cameras[camera].detector


def lines_changed(before, after):
    """Return the lines that came or went, with their sign."""
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


def test_one_line_of_the_shipped_file_changes(write):
    """In the commented file every station begins with, only the line of the detector changes, and comes back."""
    path = write(SHIPPED)
    edit = edit_detector(path, "top", "cpr")
    assert path.read_text() == SHIPPED
    edit.write()
    assert lines_changed(SHIPPED, path.read_text()) == ["-     detector: hetmm", "+     detector: cpr"]
    assert load_station(path).cameras["top"].detector == "cpr"
    edit.undo()
    assert path.read_text() == SHIPPED


@pytest.mark.parametrize(
    ("cameras", "wanted"),
    [
        ("cameras:\n  top:\n    product: part # a\n    queue: 2\n",
         "cameras:\n  top:\n    product: part # a\n    detector: cpr\n    queue: 2\n"),
        ("cameras:\n  top:\n    product: part", "cameras:\n  top:\n    product: part\n    detector: cpr"),
        ("cameras:\r\n  top:\r\n    product: part\r\n",
         "cameras:\r\n  top:\r\n    product: part\r\n    detector: cpr\r\n"),
        ("cameras: {top: {product: part}}\n", "cameras: {top: {detector: cpr, product: part}}\n"),
        ('cameras: {"top": {"product": "part"}}\n', 'cameras: {"top": {"detector": "cpr", "product": "part"}}\n'),
        ('cameras: {"top": {"product": "part", "detector": "a"}}\n',
         'cameras: {"top": {"product": "part", "detector": "cpr"}}\n'),
        ("cameras: {top: {product: part, detector: 'a'}} # b\n",
         "cameras: {top: {product: part, detector: 'cpr'}} # b\n"),
        ("cameras:\n  top:\n    exposure:\n      black: 1.0\n    product: part\n",
         "cameras:\n  top:\n    exposure:\n      black: 1.0\n    product: part\n    detector: cpr\n"),
        ("cameras:\n  top:\n    detector:   hetmm   # why\n    product: part\n",
         "cameras:\n  top:\n    detector:   cpr   # why\n    product: part\n"),
    ],
)  # fmt: skip
def test_every_way_to_write_it(cameras, wanted, write):
    """Block, flow and JSON style, a key that is there or not, comments, CRLF: only the one value is touched."""
    path = write(HEAD + cameras)
    edit_detector(path, "top", "cpr").write()
    assert path.read_bytes().decode() == HEAD + wanted


def test_a_name_that_is_no_text_in_yaml_is_quoted(write):
    """A detector called 123 or null is written so that it is read back as text."""
    for name in ("123", "null", "1e5"):
        path = write(SHIPPED)
        edit_detector(path, "top", name).write()
        assert detector_of(path.read_text()) == name


@pytest.mark.parametrize(
    "cameras",
    [
        "cameras:\n  top: &a {product: part, detector: hetmm}\n  side: *a\n",
        "cameras:\n  top:\n    product: part\n    detector: &d hetmm\n",
        "cameras:\n  top:\n    product: part\n    detector: >-\n      hetmm\n",
        "cameras:\n  side: &a\n    product: part\n  top:\n    <<: *a\n",
    ],
)
def test_what_cannot_be_changed_alone_is_refused(cameras, write):
    """A value that others share or that spans lines is left alone, and the error says what to write by hand."""
    path = write(HEAD + cameras)
    with pytest.raises(ConfigError, match="by hand"):
        edit_detector(path, "top", "cpr")
    assert path.read_text() == HEAD + cameras


def test_the_same_detector_is_no_edit(write):
    """A detector the camera has already changes nothing, not even the file's time."""
    path = write(SHIPPED)
    before = path.stat()
    edit = edit_detector(path, "top", "hetmm")
    edit.write()
    edit.undo()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_wrong_camera_or_file_is_named(write):
    """A camera the station lacks is refused with those it has; a file with a fault is refused with its line."""
    with pytest.raises(ConfigError, match="expected a camera of top, found 'side'"):
        edit_detector(write(SHIPPED), "side", "cpr")
    with pytest.raises(ConfigError, match=r"station.yaml:3: nosuch"):
        edit_detector(write(HEAD + "nosuch: 1\n"), "top", "cpr")


def test_somebody_elses_edit_is_never_lost(write):
    """A file that changed since it was read is neither written nor undone over."""
    path = write(SHIPPED)
    edit = edit_detector(path, "top", "cpr")
    path.write_text(SHIPPED + "# mine\n")
    with pytest.raises(ConfigError, match="somebody else"):
        edit.write()
    path.write_text(SHIPPED)
    edit.write()
    path.write_text(path.read_text() + "# mine\n")
    with pytest.raises(ConfigError, match="somebody else"):
        edit.undo()
    assert path.read_text().endswith("# mine\n")


def test_mode_and_link_stay(write, tmp_path):
    """The file keeps its permissions, and a link to it stays a link."""
    path = write(SHIPPED)
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    edit_detector(link, "top", "cpr").write()
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert detector_of(path.read_text()) == "cpr"


def test_a_failure_leaves_the_old_file(write, monkeypatch):
    """A disk that is full while the file is replaced costs nothing but a sentence; no stray file is left."""
    path = write(SHIPPED)
    edit = edit_detector(path, "top", "cpr")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="free some space"):
        edit.write()
    assert path.read_text() == SHIPPED
    assert [each.name for each in path.parent.iterdir()] == ["station.yaml"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from runtime.station.edit import edit_detector
calls = iter(range(int(sys.argv[2])))
def wrapped(real):
    def call(*arguments):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return call
edit = edit_detector(Path(sys.argv[1]), "top", "cpr")
for name in ("write", "fsync", "replace"):
    setattr(os, name, wrapped(getattr(os, name)))
edit.write()
"""


@pytest.mark.parametrize("step", range(5))
def test_killed_at_any_step(step, write):
    """SIGKILL at each step of the edit leaves a sound file: the old one or the new one, whole."""
    path = write(SHIPPED)
    done = subprocess.run([sys.executable, "-P", "-c", _KILLED, str(path), str(step)], timeout=60, check=False)
    assert done.returncode == (-9 if step < 4 else 0)
    text = path.read_text()
    assert detector_of(text) == ("cpr" if step >= 3 else "hetmm")
    assert len(lines_changed(SHIPPED, text)) in (0, 2)


COMMENTS = st.text("abc #:'\"{}[]&*é", max_size=12).map(lambda text: f"# {text}")


@settings(deadline=None)  # a shared machine is no judge
@given(
    comments=st.lists(COMMENTS, min_size=6, max_size=6), blank=st.integers(0, 2), quote=st.sampled_from(["", "'", '"'])
)
def test_any_comments_stay(comments, blank, quote):
    """Whatever stands in comments and blank lines around it, an edit and its way back change the value alone."""
    a, b, c, d, e, f = comments
    gap = "\n" * blank
    text = (
        f"{a}\nschema: edgead.station/1 {b}\nstation: line1\n{gap}cameras: {c}\n  {d}\n  side: {{product: x}}\n"
        f"  top: {e}\n    product: part\n{gap}    detector: {quote}hetmm{quote} {f}\n"
    )
    after = station_edit._with_value(text, ("cameras", "top", "detector"), "cpr")
    assert after == text.replace(f"detector: {quote}hetmm", f"detector: {quote}cpr")
    assert station_edit._with_value(after, ("cameras", "top", "detector"), "hetmm") == text
