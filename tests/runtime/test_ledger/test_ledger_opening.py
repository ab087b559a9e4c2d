"""Taking up a ledger whose head was changed from outside."""

from __future__ import annotations

import sqlite3

import pytest

from runtime.ledger import Ledger, LedgerError


@pytest.mark.parametrize("totals", ["{", "[]", "null", '{"triggers": "two"}', '{"triggers": 1.5}', b"\xff"], ids=str)
def test_totals_that_are_damaged_are_said_to_be(path, totals):
    """A head whose totals are no counts is refused as a damaged ledger, with what to do, not with a parser's words."""
    Ledger(path, "line1").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE head SET totals = ?", (totals,))
    connection.close()
    with pytest.raises(LedgerError, match=r"expected the totals of the ledger in its head.*ledger check"):
        Ledger(path, "line1")
