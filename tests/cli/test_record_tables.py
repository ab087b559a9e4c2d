"""What a person reads of a station's record and state on a terminal of 80 columns, and the words for what is wrong."""

import pytest

import runtime.client.subscriber
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.ledger import FrameKey, Ledger

SECOND_NS = 10**9
START_NS = 1_800_000_000 * SECOND_NS
LEDGER = {"path": "/var/lib/cell/ledger.sqlite", "seq": 7, "head": f"20:{'ab' * 32}", "short_of_room": False,
          "trouble": "", "evidence_skipped": {"disk_error": 2}}  # fmt: skip
SUBSCRIBER = {"connected": True, "responds": True, "acked": 3, "lag": 4, "oldest_unacked_s": 1.5, "gap": None,
              "in_flight": 4, "in_flight_bytes": 3000, "delivered": 4, "historical": 0}  # fmt: skip
STATUS = {
    "station": "cell-7", "state": "ready", "ready": True, "ledger": LEDGER, "cameras": {"top": {"worker": "ready"}},
    "deliveries": {"subscribers": {"mes": SUBSCRIBER}, "refused": {}, "trouble": ""},
}  # fmt: skip


@pytest.fixture
def ledger(tmp_path):
    """Return the file of a ledger with one inspection, NotDecidable while the detector was starting."""
    path, key = tmp_path / "ledger.sqlite", FrameKey("top", 1, 0)
    book = Ledger(path, "cell-7", clock=lambda: START_NS)
    trigger = book.trigger("top", received_ns=START_NS, deadline_ns=START_NS + SECOND_NS)
    book.frame(key, received_ns=START_NS, trigger=trigger)
    book.inspect(
        trigger,
        Inspection(
            result_id="run-1", seq=1, station="cell-7", camera="top", session=1, frame_id=0, product="part",
            verdict=Verdict.NOT_DECIDABLE, error=ErrorWord.DETECTOR_STARTING, score=None, threshold=None,
            detector="hetmm", detector_version="2", template="a" * 64, received_ns=START_NS,
            published_ns=START_NS + SECOND_NS, latency_us=1_000_000, map=None,
        ),
    )  # fmt: skip
    book.commit()
    book.close()
    return path


def test_ledger_show_breaks_no_word(ledger, run):
    """`ledger show` fits 80 columns, with the time, the verdict and its reason in whole words."""
    out = run("ledger", "show", "--ledger", ledger).out
    assert max(map(len, out.splitlines())) <= 80
    assert {"2027-01-15", "08:00:01.000", "NotDecidable", "detector_starting"} <= set(out.split())
    (row,) = run("ledger", "show", "--ledger", ledger, "--json").last
    assert (row["published"], row["error"]) == ("2027-01-15T08:00:01.000Z", "detector_starting")


def test_a_witness_that_is_none_is_the_callers_fault(ledger, run):
    """A witness that no check printed is a wrong option (2), told from a ledger that is damaged (8)."""
    done = run("ledger", "check", "--ledger", ledger, "--witness", "12:00")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--witness" in done.err


def test_status_shows_ledger_and_subscribers(monkeypatch, run):
    """`status` has a line for each figure of the ledger and for each subscriber, within 80 columns."""
    monkeypatch.setattr(runtime.client.subscriber, "ask_status", lambda _address: STATUS)
    out = run("status").out
    assert max(map(len, out.splitlines())) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["mes"] == ["yes", "yes", "3", "4", "1.5", "-"]
    assert rows["short_of_room"] == ["no"]
    assert rows["evidence_skipped"] == ["disk_error", "2"]


def test_status_says_what_is_off(monkeypatch, run):
    """A station that keeps no ledger and delivers nothing says so."""
    monkeypatch.setattr(
        runtime.client.subscriber, "ask_status", lambda _address: STATUS | {"ledger": None, "deliveries": None}
    )
    rows = {line.split()[0]: line.split()[1:] for line in run("status").out.splitlines() if line.strip()}
    assert (rows["ledger"], rows["deliveries"]) == (["off"], ["off"])


def test_templates_of_an_unknown_product(calibrated, run):
    """`templates list --product` names a product that has none, and does not call the store empty."""
    done = run("templates", "list", "--store", calibrated[0], "--product", "parrot")
    assert done.out == ""
    assert "no template of 'parrot'" in done.err
