"""Every subscriber gets everything, in order, from where it left off, or is told what it missed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.inspection import Verdict
from runtime.ledger import LedgerError, Outbox, Reader, Retention, check, prune
from runtime.ledger.outbox import Gap


def seqs(backlog):
    """Return the sequence numbers of a backlog's results."""
    return [each.seq for each in backlog.deliveries]


def test_a_subscriber_is_owed_what_comes_after_it_registered(line, clock):
    """Results before registration are not owed, unless asked for; results after it are, byte for byte as first sent."""
    box = Outbox(line.ledger, clock=clock)
    line.parts(3)
    assert box.register("mes")
    assert box.register("historian", from_oldest=True)
    line.parts(2, verdict=Verdict.NOT_OK)
    assert seqs(box.pending("mes", 10)) == [4, 5]
    assert seqs(box.pending("historian", 10)) == [1, 2, 3, 4, 5]
    assert [each.header for each in box.pending("mes", 10).deliveries] == [line.headers[4], line.headers[5]]
    assert box.names() == ["historian", "mes"]


def test_nothing_is_owed_before_it_is_committed(line):
    """A result is pending only after the commit that a killed host would find it in."""
    box = Outbox(line.ledger)
    box.register("mes")
    line.answer(*line.arrive())
    assert seqs(box.pending("mes", 10)) == []
    with pytest.raises(LedgerError, match=r"0\.\.0"):
        box.ack("mes", 1)
    line.ledger.commit()
    assert seqs(box.pending("mes", 10)) == [1]


def test_an_acknowledgement_holds_over_a_restart(opened):
    """What was acknowledged and committed is not sent again, what was not is; an older acknowledgement is nothing."""
    line = opened()
    box = Outbox(line.ledger)
    box.register("mes")
    line.parts(9)
    box.ack("mes", 4)
    box.ack("mes", 2)
    assert seqs(box.pending("mes", 3)) == [5, 6, 7]
    assert seqs(box.pending("mes", 3, after=7)) == [8, 9]
    line.ledger.commit()
    box = Outbox(opened().ledger)
    assert seqs(box.pending("mes", 2)) == [5, 6]
    assert not box.register("mes"), "known from the run before, and its cursor was left alone"
    assert seqs(box.pending("mes", 2)) == [5, 6]


def test_the_lag_is_visible_and_costs_nobody_else(line, clock):
    """A frozen subscriber's lag and oldest result show, while another one's is zero."""
    box = Outbox(line.ledger, clock=clock)
    for name in ("frozen", "healthy"):
        box.register(name)
    published_ns = clock()
    line.parts(40)
    box.ack("healthy", 40)
    lag = box.lag("frozen")
    assert (lag.acked, lag.results, lag.oldest_ns, lag.gap) == (0, 40, published_ns, None)
    lag = box.lag("healthy")
    assert (lag.acked, lag.results, lag.oldest_ns, lag.gap) == (40, 0, None, None)
    assert seqs(box.pending("frozen", 100)) == list(range(1, 41))


def test_a_subscriber_away_for_too_long_is_told_the_gap(opened, path, folder, clock):
    """Results removed unacknowledged become one gap, told until acknowledged, recorded, and kept over runs."""
    line = opened()
    box = Outbox(line.ledger, clock=clock)
    box.register("mes")
    box.register("prompt")
    line.parts(10)
    box.ack("mes", 2)
    box.ack("prompt", 10)
    retention = Retention(most_ns=5 * 10**9)
    prune(line.ledger, folder, retention, clock())
    assert box.pending("mes", 1).gap == Gap(3, 5)
    line.parts(3)
    prune(line.ledger, folder, retention, clock())
    box = Outbox(opened().ledger, clock=clock)
    backlog = box.pending("mes", 2)
    assert (backlog.gap, seqs(backlog)) == (Gap(3, 8), [9, 10])
    assert box.lag("mes").gap == Gap(3, 8)
    assert box.pending("prompt", 1).gap is None
    box.ack("mes", 5)
    assert box.pending("mes", 1).gap == Gap(3, 8)
    box.ack("mes", 8)
    assert box.pending("mes", 1).gap is None
    box._ledger.commit()
    box._acked.clear()
    assert box.pending("mes", 1).gap is None
    with Reader(path) as reader:
        gaps = [
            (each.detail["subscriber"], each.detail["from"], each.detail["to"]) for each in reader.events(kind="gap")
        ]
    assert gaps == [("mes", 3, 5), ("mes", 6, 8)]
    assert check(path, now_ns=0) == []


def test_leaving_is_explicit(line, path):
    """Unregistering ends the debt and is recorded; whoever is not registered is refused."""
    box = Outbox(line.ledger)
    box.register("mes")
    line.parts(1)
    box.unregister("mes")
    assert box.names() == []
    for ask in (lambda: box.pending("mes", 1), lambda: box.ack("mes", 1), lambda: box.lag("mes")):
        with pytest.raises(LedgerError, match="registered"):
            ask()
    with pytest.raises(LedgerError, match="name"):
        box.register("two words")
    with Reader(path) as reader:
        kinds = [each.kind for each in reader.events()]
    assert kinds[-2:] == ["registered", "unregistered"]


def test_an_acknowledgement_of_nothing_is_refused(line):
    """A subscriber that acknowledges what was never sent is told so, and its cursor stays."""
    box = Outbox(line.ledger)
    box.register("mes")
    line.parts(2)
    for wrong in (3, -1):
        with pytest.raises(LedgerError, match=r"0\.\.2"):
            box.ack("mes", wrong)
    assert seqs(box.pending("mes", 5)) == [1, 2]


@given(steps=st.lists(st.tuples(st.sampled_from(("part", "take", "lose", "restart")), st.integers(1, 5)), max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everything_arrives_once_and_in_order(opened, steps):
    """Whatever is lost on the way or restarted, a subscriber that drops repetitions holds every result, in order."""
    line = opened()
    box = Outbox(line.ledger)
    name = f"s{line.ledger.written.record}"
    box.register(name)
    first = line.ledger.next_seq
    held = []
    for step, number in [*steps, ("take", 10**6)]:
        if step == "part":
            line.parts(number)
        elif step == "restart":
            line = opened()
            box = Outbox(line.ledger)
        else:
            sent = seqs(box.pending(name, number))
            held += [seq for seq in sent if not held or seq > held[-1]]
            if sent and step == "take":  # else the acknowledgement is lost
                box.ack(name, sent[-1])
    assert held == list(range(first, line.ledger.next_seq))
