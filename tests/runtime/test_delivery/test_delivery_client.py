"""The subscriber's side: its rules message by message, and `edgead.subscribe` against a station in another process."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import replace

import pytest
import zmq

import edgead
from runtime.delivery.client import Subscription, subscribe
from runtime.delivery.intake import CREDIT, REMEMBERED, Intake, Life
from runtime.delivery.messages import (
    Ack,
    Closed,
    Delivery,
    Gap,
    Heartbeat,
    Refused,
    Subscribed,
    encode,
)
from runtime.errors import ConfigError, StationError, WireError
from runtime.inspection import Verdict
from runtime.local import free_addresses
from runtime.wire.header import MAX_NAME_BYTES

STARTED = Subscribed(name="mes", acked=0, last_seq=0, credit=CREDIT, fresh=True, heartbeat_ms=1000)


def delivery(simulator, seq, *, run="run"):
    """Return the delivery of a result."""
    from runtime.ledger import FrameKey
    from runtime.wire.messages import encode_result

    record = simulator.simulator.inspection(seq, FrameKey("top", 1, seq), seq, result_id=f"{run}-{seq}", map=None)
    return Delivery(seq=seq, historical=False, result=encode_result(record)[1])


@pytest.fixture
def intake():
    """Return a subscriber's rules, subscribed."""
    fresh = Intake("mes")
    fresh.subscribe()
    fresh.take(STARTED)
    return fresh


# --- the rules ----------------------------------------------------------------------------------------------------


def test_processed_is_acknowledged_and_nothing_before(intake, simulator):
    """An acknowledgement covers what was processed, and never a result still in work."""
    arrivals = [intake.take(delivery(simulator, seq)) for seq in (1, 2, 3)]
    assert (intake.unsent_acks, intake.ack()) == (0, Ack(seq=0))
    intake.done(arrivals[1].inspection.result_id)
    assert (intake.unsent_acks, intake.ack()) == (2, Ack(seq=2))
    intake.done(arrivals[0].inspection.result_id)
    assert (intake.unsent_acks, intake.ack()) == (0, Ack(seq=2))


def test_repetitions_are_left_out_and_acknowledge_themselves(intake, simulator):
    """What was processed before a reconnect is not handed out again; what was still in work waits for its own end."""
    first, second = (intake.take(delivery(simulator, seq)) for seq in (1, 2))
    intake.done(first.inspection.result_id)
    intake.subscribe()
    intake.take(STARTED)
    assert [intake.take(delivery(simulator, seq)) for seq in (1, 2)] == [None, None]
    assert (intake.repetitions, intake.ack()) == (2, Ack(seq=1))
    intake.done(second.inspection.result_id)
    assert intake.ack() == Ack(seq=2)


def test_a_sequence_number_given_twice_is_two_results(intake, simulator):
    """After a power cut at the host the same seq may be another result: told by its id, it is handed out."""
    for seq in (1, 2, 3):
        intake.done(intake.take(delivery(simulator, seq)).inspection.result_id)
    intake.subscribe()
    intake.take(replace(STARTED, acked=1, last_seq=1))
    again = intake.take(delivery(simulator, 2, run="after"))
    assert again.inspection.result_id == "after-2"
    assert intake.ack() == Ack(seq=1)


def test_a_lost_message_loses_the_connection_and_not_the_result(intake, simulator):
    """A jump in seq without a gap is not passed over: the connection is given up, and nothing of it acknowledged."""
    intake.take(delivery(simulator, 1))
    assert intake.take(delivery(simulator, 3)) is None
    assert intake.state is Life.LOST
    assert intake.ack() == Ack(seq=0)


def test_a_gap_goes_with_the_next_result_once(intake, simulator):
    """What is gone is told with the first result behind it, and not again when the host repeats it."""
    gap = Gap(from_seq=1, to_seq=7)
    intake.take(gap)
    assert intake.take(delivery(simulator, 8)).gap == gap
    intake.subscribe()
    intake.take(replace(STARTED, acked=7, last_seq=9))
    intake.take(gap)
    assert intake.take(delivery(simulator, 8)) is None
    assert intake.take(delivery(simulator, 9)).gap is None


def test_a_gap_in_what_has_arrived_is_none(intake, simulator):
    """Results removed from the record while they were on their way are not missed by who has them."""
    for seq in (1, 2, 3):
        intake.take(delivery(simulator, seq))
    intake.take(Gap(from_seq=1, to_seq=3))
    assert intake.take(delivery(simulator, 4)).gap is None


@pytest.mark.parametrize("reason", ["not_subscribed", "unavailable", "ahead"])
def test_some_refusals_are_a_reason_to_try_again(intake, reason):
    """A host that does not know us, or cannot serve us now, is asked again."""
    assert intake.take(Refused(reason=reason, detail="")) is None
    assert intake.state is Life.LOST


@pytest.mark.parametrize("message", [Refused(reason="too_many", detail="mes, historian"), Closed(reason="replaced")])
def test_others_are_told_to_the_caller(intake, message):
    """A name refused, or taken by another subscriber, is an error that names it."""
    with pytest.raises(StationError, match="'mes'"):
        intake.take(message)
    assert intake.state is Life.LOST


def test_what_is_remembered_is_bounded(intake):
    """Ids of processed results are kept up to a number, the newest."""
    for seq in range(1, REMEMBERED + 50):
        intake._handed_out[f"run-{seq}"] = None
    intake.done(f"run-{REMEMBERED + 49}")
    assert len(intake._processed) == REMEMBERED
    assert f"run-{REMEMBERED + 49}" in intake._processed


# --- over sockets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a.b", "x" * (MAX_NAME_BYTES + 1), "münchen"])
def test_a_wrong_name_is_the_callers(name):
    """A name the protocol cannot carry is refused before anything is sent."""
    with pytest.raises(ConfigError, match="1 to 64"):
        subscribe("tcp://127.0.0.1:1", name)


def test_a_wrong_address_is_the_callers():
    """Text that is no address is refused, with an example of one."""
    with pytest.raises(ConfigError, match=r"tcp://127\.0\.0\.1:5604"):
        subscribe("nowhere", "mes")


def test_nobody_there_is_an_error_after_the_time_given():
    """Iterating ends in an error that names the address, where no station ever answered."""
    (address,) = free_addresses(1)
    with edgead.subscribe(address, "mes", timeout_s=0.3) as results, pytest.raises(StationError, match=address):
        next(results)


def test_the_front_door_gives_results_and_acknowledges_them(processes, until):
    """`edgead.subscribe` yields every result with its record; a result is acknowledged when the next is asked for."""
    processes.serve(parts_per_s=500, parts=40)
    with edgead.subscribe(processes.address, "mes", maps=True, timeout_s=2, from_oldest=True) as results:
        received = [(each.seq, each.inspection.verdict, each.anomaly_map()) for each in results]
        assert results.subscribed
        assert results.repetitions == 0
    assert [seq for seq, _, _ in received] == list(range(1, 41))
    assert {verdict for _, verdict, _ in received} == {Verdict.OK}
    assert all(found is None or found.shape == (16, 16) for _, _, found in received)
    until(lambda: status(processes)["subscribers"]["mes"]["acked"] == 40)
    until(lambda: not status(processes)["subscribers"]["mes"]["connected"])


def status(processes):
    """Return the status the station wrote last."""
    file = processes.folder / "station"
    return json.loads(file.read_text()) if file.exists() else {"subscribers": {}}


def test_leaving_a_loop_early_leaves_its_result_unacknowledged(processes):
    """A result whose processing was broken off comes again; one acknowledged by hand before does not."""
    processes.serve(parts_per_s=500, parts=5)
    with subscribe(processes.address, "mes", timeout_s=10, from_oldest=True) as results:
        for each in results:
            if each.seq == 3:
                break
    with subscribe(processes.address, "mes", timeout_s=10) as results:
        for each in results:
            assert each.seq >= 3
            assert each.historical
            if each.seq == 4:
                each.ack()
                break
    with pytest.raises(StationError, match="closed"):
        each.ack()
    with subscribe(processes.address, "mes", timeout_s=1) as results:
        assert [each.seq for each in results] == [5]


def test_a_slow_reader_of_a_long_backlog_acknowledges_as_it_goes(processes, until):
    """With a hundred results waiting to be read, what is processed is acknowledged within a moment, not in batches."""
    processes.serve(parts_per_s=5000, parts=100)
    until(lambda: status(processes).get("made") == 100)
    with subscribe(processes.address, "mes", timeout_s=10, from_oldest=True) as results:
        for each in results:
            time.sleep(0.08)
            if each.seq == 12:
                break
        until(lambda: status(processes)["subscribers"]["mes"]["acked"] >= 6, 3)
        assert status(processes)["subscribers"]["mes"]["acked"] < 12


def test_batches_are_acknowledged_by_their_last(processes):
    """`receive` acknowledges nothing by itself: a batch broken off comes again whole."""
    processes.serve(parts_per_s=2000, parts=60)
    with subscribe(processes.address, "mes", from_oldest=True) as results:
        batch = [results.receive(10) for _ in range(20)]
        batch[-1].ack()
        rest = [results.receive(10) for _ in range(40)]
        assert results.receive(0.1) is None
    assert [each.seq for each in batch + rest] == list(range(1, 61))
    with subscribe(processes.address, "mes", timeout_s=1) as results:
        assert [each.seq for each in results] == list(range(21, 61))


def test_a_second_subscriber_of_the_name_ends_the_first(processes):
    """The first of two under one name gets an error that says what to do; the second goes on."""
    processes.serve(parts_per_s=20)
    with subscribe(processes.address, "mes") as first:
        assert first.receive(10) is not None
        with subscribe(processes.address, "mes") as second:
            assert second.receive(10) is not None
            with pytest.raises(StationError, match="a name of its own"):
                list(first)
            assert second.receive(10) is not None


def test_a_forgotten_name_is_owed_nothing(processes, until):
    """Forgetting takes the name off the station; the same name begins anew afterwards."""
    processes.serve(parts_per_s=100, parts=30)
    with subscribe(processes.address, "mes", timeout_s=10, from_oldest=True) as results:
        next(results)
        results.forget()
    until(lambda: status(processes).get("made") == 30 and "mes" not in status(processes)["subscribers"])
    with subscribe(processes.address, "mes") as results:
        assert results.receive(1.0) is None
        assert results.subscribed


def test_forgetting_where_nobody_answers_is_an_error():
    """A name is not taken for forgotten because no station is there."""
    (address,) = free_addresses(1)
    results = subscribe(address, "mes")
    with pytest.raises(StationError, match="forget"):
        results.forget(0.2)


@pytest.mark.slow
def test_a_pause_longer_than_all_heartbeats_loses_nothing(processes, until):
    """A subscriber that works long over one result finds the rest when it comes back, without a reconnect."""
    processes.serve(parts_per_s=200, parts=300)
    with subscribe(processes.address, "mes", timeout_s=2, from_oldest=True) as results:
        assert next(results).seq == 1
        until(lambda: status(processes).get("made") == 300)
        time.sleep(5)
        assert [each.seq for each in results] == list(range(2, 301))
        assert results.repetitions == 0


@pytest.mark.slow
def test_a_station_that_stands_still_is_asked_again(processes):
    """A host that says nothing for some heartbeats is given up, and found again when it is back."""
    processes.serve(parts_per_s=50)
    with subscribe(processes.address, "mes", from_oldest=True) as results:
        seqs = [results.receive(10).seq]
        processes.tell("signal", "station", int(signal.SIGSTOP))
        while (late := results.receive(5)) is not None:
            seqs.append(late.seq)
        assert not results.subscribed
        processes.tell("signal", "station", int(signal.SIGCONT))
        seqs += [results.receive(20).seq for _ in range(20)]
    assert seqs == list(range(1, len(seqs) + 1))


@pytest.fixture
def impostor():
    """Yield a function that answers a subscriber's first message with any parts, from a thread."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    address = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    threads = []

    def answer(*messages):
        def run():
            if router.poll(20_000):
                identity, *_ = router.recv_multipart()
                for parts in messages:
                    router.send_multipart([identity, *parts])

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return address

    yield answer
    for thread in threads:
        thread.join()
    context.destroy(linger=0)


@pytest.mark.parametrize("damage", ["junk", "another schema", "many parts", "a damaged result", "another result"])
def test_what_is_no_message_is_a_wire_error(impostor, simulator, damage):
    """Bytes that are none of this protocol are an error, however they are damaged, and nothing is acknowledged."""
    whole = delivery(simulator, 1)
    bad = {
        "junk": [b"ead.v1.delivery", b"junk"],
        "another schema": [b"ead.v1.delivery", encode(Heartbeat(last_seq=1, acked=0))[1], whole.result],
        "many parts": [b"ead.v1.heartbeat", *[b"x"] * 3000],
        "a damaged result": encoded(replace(whole, result=whole.result[:-1] + b"?")),
        "another result": encoded(replace(delivery(simulator, 2), seq=1)),
    }[damage]
    with subscribe(impostor(encode(STARTED), bad), "mes") as results, pytest.raises(WireError):
        results.receive(20)


def encoded(message):
    """Return the parts of a delivery."""
    from runtime.delivery.messages import encode_delivery

    return encode_delivery(message)


def test_closing_twice_and_unheard_is_quiet():
    """A subscription closes at once where nobody answers, and again without a word."""
    (address,) = free_addresses(1)
    results = Subscription(address, "mes")
    begun = time.monotonic()
    results.close()
    results.close()
    assert time.monotonic() - begun < 0.5
