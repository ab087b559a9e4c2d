"""Weight files: found, verified, added; what the errors tell the operator."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from runtime.errors import WeightsError
from runtime.weights import WeightFile, add, digest_of, fetch, locate, match, state, weights_dir

CONTENT = b"sixteen bytes....." * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def weight(**changes: object) -> WeightFile:
    """Return the record of the test file, with the given fields changed."""
    fields: dict[str, object] = {
        "name": "net",
        "filename": "net-1234.pth",
        "url": "http://127.0.0.1:9/net-1234.pth",
        "sha256": DIGEST,
        "licence": "none, test data",
        "size": len(CONTENT),
    }
    return WeightFile(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty weights folder that the environment points to."""
    path = tmp_path / "weights"
    path.mkdir()
    monkeypatch.setenv("EDGEAD_WEIGHTS", str(path))
    return path


def names(folder: Path) -> list[str]:
    """Return the names of everything in the folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("pin", ["", "1234567", "A" * 64, "g" * 64, "a" * 65])
def test_pin_must_be_hex_of_eight_digits_or_more(pin):
    """A record whose pin could match everything, or never match, is refused when it is made."""
    with pytest.raises(WeightsError, match="hex digits"):
        weight(sha256=pin)


@pytest.mark.parametrize("filename", ["", "..", "../net.pth", "/net.pth", "a/b.pth"])
def test_filename_cannot_leave_the_folder(filename):
    """A registered file name is a plain name, never a path."""
    with pytest.raises(WeightsError, match="plain file name"):
        weight(filename=filename)


@pytest.mark.parametrize(
    ("edgead", "data_home", "expected"),
    [("/a", "/b", "/a"), ("", "/b", "/b/edgead/weights"), ("", "", "/home/me/.local/share/edgead/weights")],
)
def test_weights_dir_follows_the_environment(monkeypatch, edgead, data_home, expected):
    """EDGEAD_WEIGHTS wins, then the XDG data home, then its default below the home directory."""
    monkeypatch.setenv("EDGEAD_WEIGHTS", edgead)
    monkeypatch.setenv("XDG_DATA_HOME", data_home)
    monkeypatch.setenv("HOME", "/home/me")
    assert weights_dir() == Path(expected)


def test_missing_file_error_tells_everything_in_one_line(folder):
    """The error of a missing file names it, its source, its place and both commands, on one line."""
    with pytest.raises(WeightsError) as raised:
        locate(weight())
    text = str(raised.value)
    assert "\n" not in text
    for part in (
        "net-1234.pth",
        weight().url,
        str(folder),
        "`edgead weights fetch net`",
        "`edgead weights add FILE`",
    ):
        assert part in text


def test_located_file_is_the_pinned_one(folder):
    """A file with the pinned digest is located, and its whole digest is reported."""
    (folder / "net-1234.pth").write_bytes(CONTENT)
    assert locate(weight()) == folder / "net-1234.pth"
    assert digest_of(weight()) == DIGEST


def test_prefix_pin_accepts_the_file_and_reports_the_whole_digest(folder):
    """Where only the beginning of a digest is published, it decides, and provenance still gets all of it."""
    (folder / "net-1234.pth").write_bytes(CONTENT)
    assert digest_of(weight(sha256=DIGEST[:8])) == DIGEST


def test_damage_of_equal_size_is_found_and_both_digests_named(folder):
    """One flipped bit refuses the file, naming the expected and the found digest."""
    damaged = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    (folder / "net-1234.pth").write_bytes(damaged)
    with pytest.raises(WeightsError) as raised:
        locate(weight())
    assert DIGEST in str(raised.value)
    assert hashlib.sha256(damaged).hexdigest() in str(raised.value)


def test_truncated_file_is_named_by_its_size(folder):
    """A truncated file is refused with the expected and the found size."""
    (folder / "net-1234.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=f"expected {len(CONTENT)} bytes, found {len(CONTENT) - 1}"):
        locate(weight())


def test_verification_is_not_trusted_after_the_file_changed(folder):
    """A file that was verified once is verified again after it was rewritten."""
    path = folder / "net-1234.pth"
    path.write_bytes(CONTENT)
    locate(weight())
    path.write_bytes(bytes(len(CONTENT)))
    os.utime(path, ns=(1, 1))
    with pytest.raises(WeightsError, match="damaged"):
        locate(weight())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return where an importable package, which raises on import, keeps its weight file."""
    root = tmp_path / "site" / "edgead_test_weights_package"
    (root / "models").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return root / "models" / "net.pth"


PACKAGE = "edgead_test_weights_package:models/net.pth"


def test_file_of_an_installed_package_is_used_in_place(package):
    """A packaged file needs no fetch, and the package that carries it is not imported."""
    package.write_bytes(CONTENT)
    assert locate(weight(package=PACKAGE)) == package
    assert fetch(weight(package=PACKAGE)) == package
    assert state(weight(package=PACKAGE)) == "present"


def test_added_file_stands_in_for_a_damaged_package(package, folder):
    """A damaged packaged file is refused until a good copy is added."""
    package.write_bytes(b"other")
    with pytest.raises(WeightsError, match="damaged"):
        locate(weight(package=PACKAGE))
    (folder / "net-1234.pth").write_bytes(CONTENT)
    assert locate(weight(package=PACKAGE)) == folder / "net-1234.pth"


def test_missing_package_is_to_be_installed_not_fetched():
    """For a packaged file the error says to install the package, also when a fetch was asked for."""
    with pytest.raises(WeightsError, match="install the package") as raised:
        fetch(weight(package="edgead_no_such_package:models/net.pth"))
    assert "weights fetch" not in str(raised.value)


def test_match_goes_by_content_and_prefers_the_longest_pin(tmp_path):
    """A file is recognised whatever its name, and by the strongest pin where two fit."""
    file = tmp_path / "whatever.bin"
    file.write_bytes(CONTENT)
    short, other = weight(name="short", sha256=DIGEST[:8]), weight(name="other", sha256="0" * 64)
    assert match([other, short], file).name == "short"
    assert match([other, short, weight(name="long")], file).name == "long"


def test_unknown_file_is_refused_with_its_digest(tmp_path):
    """A file that is none of the registered ones is named with its digest and the registered names."""
    file = tmp_path / "whatever.bin"
    file.write_bytes(b"something else")
    with pytest.raises(WeightsError) as raised:
        match([weight()], file)
    assert hashlib.sha256(b"something else").hexdigest() in str(raised.value)
    assert "net (net-1234.pth)" in str(raised.value)


def test_add_copies_under_the_registered_name(tmp_path, folder):
    """An added file lies in the folder under its registered name, readable by the station's account."""
    file = tmp_path / "download (1).pth"
    file.write_bytes(CONTENT)
    assert add(weight(), file) == folder / "net-1234.pth"
    assert locate(weight()).read_bytes() == CONTENT
    assert (folder / "net-1234.pth").stat().st_mode & 0o777 == 0o644
    assert names(folder) == ["net-1234.pth"]


def test_add_refuses_another_file_and_keeps_the_old_one(tmp_path, folder):
    """A wrong file is refused with both digests; what was in the folder stays as it was."""
    (folder / "net-1234.pth").write_bytes(CONTENT)
    file = tmp_path / "wrong.pth"
    file.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(WeightsError) as raised:
        add(weight(), file)
    assert DIGEST in str(raised.value)
    assert hashlib.sha256(bytes(len(CONTENT))).hexdigest() in str(raised.value)
    assert names(folder) == ["net-1234.pth"]
    assert locate(weight()).read_bytes() == CONTENT


def test_add_of_an_absent_file_is_a_weights_error(tmp_path, folder):
    """A source that cannot be read is one of our errors and leaves nothing behind."""
    with pytest.raises(WeightsError, match="cannot copy"):
        add(weight(), tmp_path / "absent.pth")
    assert names(folder) == []


def test_state_names_what_is_there(folder):
    """The four states are told apart."""
    assert state(weight()) == "missing"
    (folder / "net-1234.pth.part").write_bytes(CONTENT[:10])
    assert state(weight()) == "partial"
    (folder / "net-1234.pth").write_bytes(b"wrong")
    assert state(weight()) == "damaged"
    (folder / "net-1234.pth").write_bytes(CONTENT)
    assert state(weight()) == "present"
