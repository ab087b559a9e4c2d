"""Taking up a ledger that was killed before it had begun, or whose head was changed from outside."""

from __future__ import annotations

import sqlite3

import pytest

from runtime.ledger import Ledger, LedgerError, check, schema


@pytest.mark.parametrize("totals", ["{", "[]", "null", '{"triggers": "two"}', '{"triggers": 1.5}', b"\xff"], ids=str)
def test_totals_that_are_damaged_are_said_to_be(path, totals):
    """A head whose totals are no counts is refused as a damaged ledger, with what to do, not with a parser's words."""
    Ledger(path, "line1").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE head SET totals = ?", (totals,))
    connection.close()
    with pytest.raises(LedgerError, match=r"expected the totals of the ledger in its head.*ledger check"):
        Ledger(path, "line1")


def test_a_ledger_is_there_whole_or_not_at_all(path, monkeypatch):
    """What ends while a ledger is made leaves none behind, and the next start makes it, whatever it finds half made."""

    def die(_connection):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(schema, "_create", die)
        with pytest.raises(KeyboardInterrupt):
            Ledger(path, "line1")
    assert not path.exists()
    for ending in ("", "-journal", "-wal"):
        path.with_name(f"{path.name}.new{ending}").write_bytes(b"half made")
    Ledger(path, "line1").close()
    assert check(path) == []
    assert [each.name for each in path.parent.iterdir() if ".new" in each.name] == []


def test_an_empty_file_becomes_a_ledger(path):
    """A file without a byte, which a full disk may leave, is begun anew."""
    path.parent.mkdir()
    path.touch()
    Ledger(path, "line1").close()
    assert check(path) == []
