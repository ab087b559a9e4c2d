"""The check finds every change, and nothing where nothing was changed."""

# ruff: noqa: S608 -- statements over every table and column, from the constants of the schema

from __future__ import annotations

import itertools
import re
import shutil
import sqlite3
from contextlib import closing

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import Event, Ledger, Outbox, Reader, Retention, check, evidence, prune
from runtime.ledger.chain import Head, link
from runtime.ledger.errors import LedgerError
from runtime.ledger.removal import forget
from runtime.ledger.schema import COLUMNS, PAGE_BYTES

COLUMN_NAMES = [(table, name) for table, names in COLUMNS.items() for name in ("record", *names, "hash")]
COLUMN_NAMES += [("head", name) for name in ("station", "record", "seq", "hash", "totals")]
COLUMN_NAMES += [("evidence", "removed_by")]
CHAINED = tuple(COLUMNS)
SETTINGS = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module", params=["whole", "pruned"])
def sound(request, tmp_path_factory, simulator):
    """Return the folder of a closed ledger with every kind of record; one with its old end pruned away as well."""
    root = tmp_path_factory.mktemp(request.param)
    clock = simulator.Clock()
    with Ledger(root / "ledger.db", simulator.STATION, clock=clock) as ledger:
        line = simulator.Line(ledger, clock)
        Outbox(ledger).register("mes")
        for number in range(60):
            trigger, key = line.arrive(trigger_id=number, part_id=f"part {number}")
            undecided = ErrorWord.OVERLOAD if number % 9 == 4 else ErrorWord.NONE
            verdict = Verdict.NOT_OK if number % 5 == 0 else Verdict.OK
            seq = line.answer(trigger, key, verdict=verdict, error=undecided)
            ledger.commit()
            if number % 3 == 0:
                parts = {"frame": bytes([number]) * 300, "map": b"map"}
                ledger.keep(evidence.write(root / "evidence", seq, verdict, parts))
            if number % 10 == 0:
                ledger.drop(key, received_ns=clock(), reason="duplicate")
                ledger.note(Event.REFUSED, {"topic": number})
            clock.pass_s(1)
        ledger.commit()
        forget(ledger, root / "evidence", [1, 31, 34], "age")
        if request.param == "pruned":
            assert prune(ledger, root / "evidence", Retention(most_ns=40 * 10**9), clock(), limit=10_000) > 50
    return root


@pytest.fixture
def tampered(sound, tmp_path):
    """Return a function that gives a fresh copy of the ledger, to be changed through a connection."""
    copies = itertools.count()

    def copy():
        path = tmp_path / f"{next(copies)}.db"
        shutil.copy(sound / "ledger.db", path)
        return path

    return copy


def rows_of(connection, table):
    """Return the records of a table."""
    return [row[0] for row in connection.execute(f"SELECT record FROM {table} ORDER BY record")]


def other(value, amount):
    """Return another value of the same kind, or another kind for none."""
    if value is None:
        return amount
    if isinstance(value, bytes):
        at = amount % len(value)
        return value[:at] + bytes([value[at] ^ (1 + amount % 255)]) + value[at + 1 :]
    return f"{value}{amount}" if isinstance(value, str) else value + amount


def test_a_sound_ledger_has_no_problem(sound):
    """An untouched ledger, evidence included, proves itself, before and after its old end was removed."""
    assert check(sound / "ledger.db", folder=sound / "evidence", now_ns=2**62) == []


@pytest.mark.parametrize(("table", "name"), COLUMN_NAMES, ids=str)
@given(pick=st.integers(0, 10**6), amount=st.integers(1, 10**6))
@settings(SETTINGS, max_examples=3)
def test_any_changed_value_is_found(tampered, table, name, pick, amount):
    """Changing one value of one row, in any column of any table that proves something, is found."""
    path = tampered()
    key = "id" if table == "head" else "record"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        keys = [row[0] for row in connection.execute(f"SELECT {key} FROM {table}")]
        row = keys[pick % len(keys)]
        value = connection.execute(f"SELECT {name} FROM {table} WHERE {key} = ?", (row,)).fetchone()[0]
        try:
            changed = other(value, amount)
            connection.execute(f"UPDATE {table} SET {name} = ? WHERE {key} = ?", (changed, row))
        except sqlite3.IntegrityError:
            assume(False)  # the tables themselves refuse a second record of that number
    assert check(path, now_ns=0)


@given(pick=st.integers(0, 10**6), table=st.sampled_from(CHAINED))
@SETTINGS
def test_any_deleted_row_is_found(tampered, pick, table):
    """Deleting any one record, the first and the last included, is found and named."""
    path = tampered()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = rows_of(connection, table)
        gone = rows[pick % len(rows)]
        connection.execute(f"DELETE FROM {table} WHERE record = ?", (gone,))
    problems = check(path, now_ns=0)
    anchored = any(each.kind == "file" and "anchor" in str(each) for each in problems)
    assert anchored or any(each.record == gone or str(gone) in str(each) for each in problems)


@pytest.mark.parametrize("table", CHAINED)
def test_the_first_and_the_last_row_are_missed(tampered, table):
    """Deleting the oldest or the newest row of a table is found."""
    for end in ("min", "max"):
        path = tampered()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(f"DELETE FROM {table} WHERE record = (SELECT {end}(record) FROM {table})")
        assert check(path, now_ns=0), end


@given(picks=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), table=st.sampled_from(CHAINED))
@SETTINGS
def test_any_two_swapped_rows_are_found(tampered, picks, table):
    """Exchanging the contents of two rows, hashes included, is found."""
    path = tampered()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = rows_of(connection, table)
        one, two = (rows[pick % len(rows)] for pick in picks)
        assume(one != two)
        for old, new in ((one, -1), (two, one), (-1, two)):
            connection.execute(f"UPDATE {table} SET record = ? WHERE record = ?", (new, old))
    assert check(path, now_ns=0)


@given(pick=st.integers(0, 10**6), table=st.sampled_from(("triggers", "events")))
@SETTINGS
def test_an_inserted_row_is_found(tampered, pick, table):
    """A copy of a row, added at the end or in the place of a removed number, is found."""
    path = tampered()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = rows_of(connection, table)
        last = connection.execute("SELECT record FROM head").fetchone()[0]
        names = ", ".join((*COLUMNS[table], "hash"))
        connection.execute(
            f"INSERT INTO {table} (record, {names}) SELECT ?, {names} FROM {table} WHERE record = ?",
            (last + 1, rows[pick % len(rows)]),
        )
    assert check(path, now_ns=0)


def test_one_change_is_named_once(tampered):
    """A changed verdict gives one broken link and the totals it upsets, not a problem for every record after it."""
    path = tampered()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        query = "SELECT record FROM inspections WHERE verdict = 2 ORDER BY record DESC"
        row = connection.execute(query).fetchone()[0]
        connection.execute("UPDATE inspections SET verdict = 1 WHERE record = ?", (row,))
    problems = check(path, now_ns=0)
    assert [(each.kind, each.record) for each in problems] == [
        ("changed", row),
        ("totals", 0),
        ("totals", 0),
    ]
    assert f"record {row}" in str(problems[0])
    assert {"inspections.NotOK", "inspections.OK"} <= {str(each).split(": ")[1] for each in problems[1:]}


def test_a_chain_written_anew_is_found_by_a_witness(tampered):
    """Who rewrites a record and every hash after it passes the links, but not a head that was written down before."""
    path = tampered()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        witness = Head(*connection.execute("SELECT record, hash FROM head").fetchone())
    assert check(path, witness=Head.parse(str(witness)), now_ns=0) == []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rewrite(connection)
    assert check(path, now_ns=0) == []
    assert [each.kind for each in check(path, witness=witness, now_ns=0)] == ["witness"]


def rewrite(connection):
    """Change the newest score, and every hash from there on."""
    start = connection.execute("SELECT max(record) FROM inspections").fetchone()[0]
    connection.execute("UPDATE inspections SET score = 0.75 WHERE record = ?", (start,))
    digest = None
    tables = {record: table for table in COLUMNS for record in rows_of(connection, table)}
    digest = connection.execute(f"SELECT hash FROM {tables[start - 1]} WHERE record = ?", (start - 1,)).fetchone()[0]
    for record in range(start, max(tables) + 1):
        names = ", ".join(COLUMNS[tables[record]])
        values = connection.execute(f"SELECT {names} FROM {tables[record]} WHERE record = ?", (record,)).fetchone()
        digest = link(digest, tables[record], record, values)
        connection.execute(f"UPDATE {tables[record]} SET hash = ? WHERE record = ?", (digest, record))
    connection.execute("UPDATE head SET hash = ?", (digest,))


@pytest.mark.parametrize("text", ["", "7", "x:00", "7:zz", "-1:" + "00" * 32, "7:00"])
def test_a_witness_that_is_none_is_refused(text):
    """A witness that is no record number with a SHA-256 is refused."""
    with pytest.raises(LedgerError, match="hexadecimal"):
        Head.parse(text)


def test_damaged_evidence_is_named(sound, tmp_path):
    """One flipped byte in a file of evidence, and a file that is gone, are named; reading it is refused."""
    root = tmp_path / "copy"
    shutil.copytree(sound, root)
    with closing(sqlite3.connect(root / "ledger.db")) as connection:
        query = "SELECT seq, verdict, bytes, sha256 FROM evidence WHERE removed_by IS NULL ORDER BY seq DESC LIMIT 2"
        flipped, gone = (evidence.Kept(*row) for row in connection.execute(query))
    path = evidence.path_of(root / "evidence", flipped.seq)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    evidence.path_of(root / "evidence", gone.seq).unlink()
    problems = check(root / "ledger.db", folder=root / "evidence", now_ns=0)
    assert [each.kind for each in problems] == ["evidence", "evidence"]
    assert str(path) in str(problems[1])
    assert "no file" in str(problems[0])
    with pytest.raises(LedgerError, match="was changed"):
        evidence.read(root / "evidence", flipped)


def test_a_damaged_page_is_named(tampered):
    """A page of the file overwritten with noise gives problems, not an exception."""
    path = tampered()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")  # noise in a free page harms nobody
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        damaged = bytearray(data)
        damaged[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
        path.write_bytes(damaged)
        assert check(path, now_ns=0), page


def test_records_on_a_damaged_page_are_named(line, path):
    """One leaf page of noise deep inside: the check names the table and exactly the records that cannot be read."""
    line.parts(2000)
    line.ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
        rows = connection.execute("SELECT record, header FROM inspections ORDER BY record").fetchall()
    data = bytearray(path.read_bytes())
    page = bytes(data).index(rows[len(rows) // 2][1]) // PAGE_BYTES * PAGE_BYTES
    data[page : page + PAGE_BYTES] = b"\xa5" * PAGE_BYTES
    path.write_bytes(data)
    there = [record for record, header in rows if header in bytes(data)]
    lost = sorted({record for record, _ in rows} - set(there))
    problems = check(path, now_ns=0)
    assert {each.kind for each in problems} == {"file"}
    (named,) = [each for each in problems if each.record]
    found = re.fullmatch(r"inspections: expected to read all, found those of (\d+) to (\d+) on a damaged.*", named.what)
    first, last = (int(number) for number in found.groups())
    assert named.record == first
    assert max(record for record in there if record < lost[0]) < first <= lost[0]
    assert lost[-1] <= last < min(record for record in there if record > lost[-1])


def test_a_damaged_index_leaves_every_record(tampered):
    """Where only an index is damaged the check says that every record can be read, and so they can."""
    path = tampered()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'frame_keys'").fetchone()[0]
    data = bytearray(path.read_bytes())
    data[(root - 1) * PAGE_BYTES : root * PAGE_BYTES] = b"\xa5" * PAGE_BYTES
    path.write_bytes(data)
    problems = check(path, now_ns=0)
    assert str(problems[-1]).startswith("file: every record can still be read")
    with Reader(path) as reader:
        assert list(reader.inspections())


def test_a_file_that_is_no_database_is_told_what_to_do(path):
    """A check of noise names the file and what to do with it, and does not send its reader back to itself."""
    path.parent.mkdir()
    path.write_bytes(b"\xa5" * 8192)
    (problem,) = check(path)
    assert problem.kind == "file"
    assert "move it away" in str(problem)
    assert "ledger check" not in str(problem)


def test_no_ledger_is_no_proof(path):
    """A check of a ledger that is not there is refused as reading it is, not answered with a problem."""
    with pytest.raises(LedgerError, match="found none"):
        check(path)


def test_a_ledger_in_ruins_gives_a_short_list(tampered):
    """However much is wrong, the list of problems ends, and says that there are more."""
    path = tampered()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for _ in range(4):
            last = connection.execute("SELECT max(record) FROM events").fetchone()[0]
            connection.execute(
                "INSERT INTO events SELECT record + ? - (SELECT min(record) FROM events) + 10, kind, at_ns, detail, "
                "hash FROM events WHERE kind != 'pruned'",
                (max(last, 2000) * 2,),
            )
        connection.execute("UPDATE triggers SET camera = 'side'")
        connection.execute("UPDATE frames SET dropped = 'yes'")
        connection.execute("UPDATE inspections SET camera = 'side'")
    problems = check(path, now_ns=0)
    assert 100 < len(problems) <= 201
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE frames")
    assert [each.kind for each in check(path, now_ns=0)] == ["file"]
