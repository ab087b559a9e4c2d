"""Triggers ahead of frames, through the real intake and ledger: one answer each, whatever comes twice, late, never."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from runtime.errors import LedgerError
from runtime.host.publication import MOST_ASKERS
from runtime.inspection import ErrorWord
from runtime.ledger import Reader, check
from runtime.ledger.records import Earlier
from runtime.station.config import Camera
from runtime.testing.played_line import EPOCH, MS, Clock, Line

LATER = EPOCH + 10**15


@pytest.fixture
def make_line(tmp_path, monkeypatch) -> Iterator[Callable[..., Line]]:
    """Return a maker of lines whose clock is the test's; each is proven by its ledger at the end."""
    clock, made = Clock(), []
    for module in ("runtime.host.intake", "runtime.host.publication"):
        monkeypatch.setattr(f"{module}.time", clock)

    def make(*, ledger: bool = True, recipes: tuple[str, ...] = ("",), **keys) -> Line:
        camera = Camera(product="part", **({"triggers": "ahead", "deadline_ms": 100, "queue": 2} | keys))
        made.append(Line(tmp_path / "ledger" if ledger else None, clock, camera, known=recipes))
        return made[-1]

    yield make
    for line in made:
        line.close()
        if line.folder is not None:
            assert check(line.folder / "ledger.sqlite", now_ns=LATER) == []


def totals(line: Line) -> dict[str, int]:
    """Return what the ledger has counted, without its events."""
    return {name: number for name, number in line.records.ledger.totals.items() if not name.startswith("events")}


def test_a_frame_answers_its_trigger_and_both_senders_hear_of_it(make_line):
    """One inspection with the trigger's id, part and recipe, timed from the trigger; a receipt on each connection."""
    line = make_line(recipes=("", "m4"))
    line.trigger(part_id="SN-1", recipe="m4", raised_ns=77, simulated=True)
    line.wait(30)
    line.frame(trigger_id=1)
    line.wait(20)
    line.finish()
    made = line.published[0]
    assert (made.trigger_id, made.part_id, made.recipe, made.triggered_ns) == (1, "SN-1", "m4", 77)
    assert (made.verdict.label, made.latency_us, made.simulated) == ("OK", 50_000, True)
    assert line.of(b"plc") == line.of(b"cam") == [("OK", "none", 1)]
    plc, cam = line.receipts[b"plc"][0], line.receipts[b"cam"][0]
    assert (plc.message, cam.message, plc.seq, cam.seq) == ("trigger", "frame", 1, 1)
    assert (plc.session, plc.frame_id) == (cam.session, cam.frame_id) == (1, 0)


def test_a_trigger_whose_frame_never_comes(make_line):
    """At its deadline: one inspection, NotDecidable, camera_lost; the frame that comes after is recorded as late."""
    line = make_line()
    line.trigger()
    line.wait(99)
    assert line.published == []
    line.wait(1)
    assert line.of(b"plc") == [("NotDecidable", "camera_lost", 1)]
    line.frame(trigger_id=1)
    line.wait(1000)
    assert line.of(b"cam") == [("late", "none", 1)]
    assert len(line.published) == 1
    assert totals(line) == {
        "triggers": 1, "inspections": 1, "inspections.NotDecidable": 1, "frames": 1, "frames.dropped.late": 1,
        "refused.late": 1,
    }  # fmt: skip


def test_a_frame_without_a_trigger_is_refused_and_recorded(make_line):
    """Held for its trigger as long as the file says, then refused: dropped, not inspected, never passed."""
    line = make_line(early_ms=20)
    line.frame(frame_id=0)
    assert line.of(b"cam") == [("no_trigger", "none", None)]
    line.frame(frame_id=1, trigger_id=9)
    line.wait(19)
    assert len(line.of(b"cam")) == 1
    line.wait(1)
    assert line.of(b"cam")[1:] == [("no_trigger", "none", 9)]
    assert line.published == []
    assert totals(line)["frames.dropped.no_trigger"] == 2


def test_a_frame_may_overtake_its_trigger(make_line):
    """A frame a few milliseconds ahead of its trigger is inspected; sent twice meanwhile, both copies are answered."""
    line = make_line()
    parts = line.frame(trigger_id=1)
    line.send(b"cam2", parts)
    line.wait(10)
    line.trigger()
    line.finish()
    assert line.of(b"plc") == line.of(b"cam") == line.of(b"cam2") == [("OK", "none", 1)]
    assert (totals(line)["frames"], totals(line)["frames.dropped.duplicate"]) == (2, 1)


def test_a_second_frame_for_a_trigger_is_dropped(make_line):
    """The first frame is inspected; another one under the same trigger id is told that it is the second."""
    line = make_line()
    line.trigger()
    line.frame(frame_id=0, trigger_id=1)
    line.frame(b"cam2", frame_id=1, trigger_id=1)
    line.finish()
    assert (line.of(b"cam"), line.of(b"cam2")) == ([("OK", "none", 1)], [("second", "none", 1)])
    assert totals(line)["frames.dropped.second"] == 1


@pytest.mark.parametrize(
    ("of_trigger", "of_frame"),
    [({"part_id": "a"}, {"part_id": "b"}), ({"recipe": "m4"}, {"recipe": "m5"})],
    ids=["part", "recipe"],
)
def test_a_frame_that_contradicts_its_trigger(make_line, of_trigger, of_frame):
    """Another part or recipe than the trigger's: NotDecidable, bad_command, and the detector never sees it."""
    line = make_line(recipes=("", "m4", "m5"))
    line.trigger(**of_trigger)
    line.frame(trigger_id=1, **of_frame)
    assert line.of(b"plc") == line.of(b"cam") == [("NotDecidable", "bad_command", 1)]
    assert not line.lane_of_top.waiting


def test_a_frame_may_name_the_recipe_where_its_trigger_names_none(make_line):
    """What only the frame says counts for both: it is inspected as its own recipe, not as the current one."""
    line = make_line(recipes=("", "m4"))
    line.trigger()
    line.frame(trigger_id=1, recipe="m4")
    line.finish()
    assert (line.asked[-1], line.published[0].recipe, line.published[0].verdict.label) == ("m4", "m4", "OK")
    line.trigger(trigger_id=2)
    line.frame(frame_id=1, trigger_id=2, recipe="m9")
    assert line.of(b"plc")[1:] == [("NotDecidable", "bad_command", 2)]


@pytest.mark.parametrize("mode", ["ahead", "with_frame"])
def test_an_unknown_recipe_is_answered(make_line, mode):
    """A recipe the camera does not have: NotDecidable, bad_command; the frame of such a trigger is late."""
    line = make_line(triggers=mode)
    if mode == "ahead":
        line.trigger(recipe="m9")
        assert line.of(b"plc") == [("NotDecidable", "bad_command", 1)]
        line.frame(trigger_id=1)
        assert line.of(b"cam") == [("late", "none", 1)]
    else:
        line.frame(recipe="m9")
        assert line.of(b"cam") == [("NotDecidable", "bad_command", None)]
    assert line.published[0].recipe == "m9"


def test_a_trigger_sent_twice_gets_the_first_answer(make_line):
    """While it is open, after it is answered, and after the host was killed: one inspection, a receipt for each."""
    line = make_line()
    parts = line.trigger(raised_ns=5)
    line.send(b"plc2", parts)
    line.frame(trigger_id=1)
    line.finish()
    line.send(b"plc3", parts)
    line.kill()
    line.start()
    line.send(b"plc4", parts)
    assert {line.of(name)[0] for name in (b"plc", b"plc2", b"plc3", b"plc4")} == {("OK", "none", 1)}
    assert {each.seq for told in line.receipts.values() for each in told} == {1}
    assert totals(line)["triggers"] == 1


def test_a_number_used_again_for_another_part(make_line):
    """Open: NotDecidable, bad_command, and the first keeps its frame. Answered: a new trigger, not the old verdict."""
    line = make_line()
    line.trigger(part_id="a")
    line.trigger(b"plc2", part_id="b")
    assert line.of(b"plc2") == [("NotDecidable", "bad_command", 1)]
    line.frame(trigger_id=1, part_id="a")
    line.finish()
    assert line.published[-1].part_id == "a"
    line.trigger(b"plc3", part_id="c")
    line.frame(frame_id=1, trigger_id=1, part_id="c")
    line.finish()
    assert (line.of(b"plc"), line.of(b"plc3")) == ([("OK", "none", 1)], [("OK", "none", 1)])
    assert [each.part_id for each in line.published] == ["b", "a", "c"]


def test_the_late_frame_of_a_number_used_again(make_line):
    """The frame of the part before may be the one that comes: not inspected for the part that has the number now."""
    line = make_line()
    line.trigger(part_id="a")
    line.wait(100)
    line.trigger(part_id="b")
    line.frame(trigger_id=1, clock="camera")
    line.frame(b"cam2", frame_id=1, trigger_id=1, clock="camera")
    assert line.of(b"plc") == [("NotDecidable", "camera_lost", 1)] * 2
    assert "used before" in line.published[-1].error_detail
    assert line.of(b"cam2") == [("late", "none", 1)]


def test_a_number_raised_again_later_is_a_new_trigger(make_line):
    """The same id and part raised at another time after its answer is judged anew: a counter may begin again."""
    line = make_line()
    line.trigger(raised_ns=5)
    line.frame(trigger_id=1)
    line.finish()
    line.wait(10)
    line.trigger(raised_ns=6)
    line.wait(100)
    assert line.of(b"plc") == [("OK", "none", 1), ("NotDecidable", "camera_lost", 1)]


def test_a_killed_host_answers_its_triggers_at_the_next_start(make_line):
    """A trigger that waited is host_lost after the kill, once; its late frame and its repetition are told so."""
    line = make_line(early_ms=0)
    parts = line.trigger(raised_ns=5)
    line.kill()
    line.start()
    assert [each.error for each in line.published] == [ErrorWord.HOST_LOST]
    line.send(b"plc", parts)
    line.frame(trigger_id=1)
    assert line.of(b"plc") == [("NotDecidable", "host_lost", 1)]
    assert line.of(b"cam") == [("late", "none", 1)]
    assert totals(line)["inspections"] == 1


def test_a_frame_recorded_before_the_kill_is_known_after_it(make_line):
    """A frame whose trigger the kill left open gets that answer when it is sent again."""
    line = make_line()
    line.trigger()
    parts = line.frame(trigger_id=1)
    line.kill()
    line.start()
    line.send(b"cam", parts)
    assert line.of(b"cam") == [("NotDecidable", "host_lost", 1)]


def test_more_triggers_than_may_wait(make_line):
    """One more than the queue holds is answered at once, overload; its frame is late; the others keep theirs."""
    line = make_line()
    for number in (1, 2, 3):
        line.trigger(trigger_id=number)
    assert line.of(b"plc") == [("NotDecidable", "overload", 3)]
    for number in (3, 1, 2):
        line.frame(frame_id=number, trigger_id=number)
    line.finish()
    line.finish()
    assert line.of(b"cam") == [("late", "none", 3), ("OK", "none", 1), ("OK", "none", 2)]


def test_a_burst_beyond_the_queue_costs_no_trigger_its_answer(make_line):
    """However many triggers are answered overload, those that wait keep their place and are answered."""
    line = make_line()
    for number in range(1, 10):
        line.trigger(trigger_id=number)
    assert line.of(b"plc") == [("NotDecidable", "overload", number) for number in range(3, 10)]
    line.frame(trigger_id=1)
    line.finish()
    line.wait(100)
    assert line.of(b"plc")[7:] == [("OK", "none", 1), ("NotDecidable", "camera_lost", 2)]


def test_a_source_that_sends_without_end_is_owed_a_bounded_number_of_receipts(make_line):
    """Trigger and frame sent a thousand times each before the answer: the newest connections hear it, and no more."""
    line = make_line()
    raised = line.trigger(b"0")
    for number in range(1, 1000):
        line.send(b"%d" % number, raised)
    sent = line.frame(b"cam", trigger_id=1)
    for _ in range(1000):
        line.send(b"cam", sent)
    line.frame(b"other", trigger_id=1, acquired_ns=5)
    line.finish()
    assert line.of(b"other") == [("frame_reused", "none", 1)]
    assert line.of(b"cam") == [("OK", "none", 1)] * MOST_ASKERS
    assert set(line.receipts) == {b"other", b"cam", *(b"%d" % number for number in range(1000 - MOST_ASKERS, 1000))}


def test_an_early_frame_under_a_name_used_before_is_refused(make_line):
    """While the first one is held, another frame of its name is not taken for it."""
    line = make_line()
    line.frame(trigger_id=1)
    line.frame(b"cam2", trigger_id=1, acquired_ns=5)
    assert line.of(b"cam2") == [("frame_reused", "none", 1)]


def test_an_answer_the_ledger_has_lost_stops_no_station(make_line):
    """A frame sent again whose record says neither answered nor open is refused, and the next one is inspected."""
    line = make_line(triggers="with_frame", ledger=False)
    parts = line.frame()
    line.finish()
    line.records.admit = lambda *_: Earlier(1)
    line.send(b"cam2", parts)
    assert line.of(b"cam2") == [("unrecorded", "none", None)]
    del line.records.admit
    line.frame(frame_id=1)
    line.finish()
    assert line.of(b"cam")[-1] == ("OK", "none", None)


def test_a_trigger_may_ask_for_less_time_than_the_station_gives_but_not_more(make_line):
    """Its own deadline counts if it is shorter, for the detector too: from the trigger, not from the frame."""
    line = make_line()
    line.trigger(trigger_id=1, deadline_ms=30)
    line.frame(trigger_id=1)
    line.trigger(trigger_id=2, deadline_ms=500)
    line.wait(30)
    assert line.of(b"plc") == [("NotDecidable", "detector_timeout", 1)]
    line.wait(70)
    assert line.of(b"plc")[1:] == [("NotDecidable", "camera_lost", 2)]


def test_a_trigger_where_frames_are_their_own_is_refused(make_line):
    """A camera whose triggers come with its frames takes none ahead, and says so."""
    line = make_line(triggers="with_frame")
    line.trigger()
    assert line.of(b"plc") == [("not_ahead", "none", 1)]
    assert line.receipts[b"plc"][0].message == "trigger"
    assert line.published == []


def test_a_stopping_station_answers_what_comes_and_waits_for_what_it_took(make_line):
    """New triggers are answered stopping; the frame of an older one is inspected; strays are not waited for."""
    line = make_line()
    line.trigger(trigger_id=1)
    line.frame(frame_id=5, trigger_id=8)
    line.is_stopping = True
    line.trigger(b"plc2", trigger_id=2)
    assert line.of(b"plc2") == [("NotDecidable", "stopping", 2)]
    assert line.intake.waiting == 2
    line.frame(b"cam2", frame_id=6, trigger_id=1)
    line.finish()
    assert (line.of(b"plc"), line.of(b"cam")) == ([("OK", "none", 1)], [("no_trigger", "none", 8)])
    assert line.intake.waiting == 0


def test_matched_by_order_after_a_loss(make_line):
    """The frame after a lost one is joined, recorded and not trusted: NotDecidable, camera_lost."""
    line = make_line(match="order")
    line.trigger(trigger_id=1)
    line.wait(100)
    line.trigger(trigger_id=2)
    line.frame(clock="camera")
    assert line.of(b"plc") == [("NotDecidable", "camera_lost", 1), ("NotDecidable", "camera_lost", 2)]
    assert totals(line)["frames.dropped.camera_lost"] == 1


def test_a_part_that_contradicts_ends_the_order(make_line):
    """By order, a frame of the next part shows that one was missed: the frame after it is not trusted either."""
    line = make_line(match="order", early_ms=0)
    line.trigger(trigger_id=1, part_id="a")
    line.trigger(trigger_id=2, part_id="b")
    line.frame(frame_id=5, clock="camera", part_id="b")
    line.frame(frame_id=6, clock="camera")
    assert line.of(b"plc") == [("NotDecidable", "bad_command", 1), ("NotDecidable", "camera_lost", 2)]


def test_a_frame_that_cannot_be_recorded_costs_its_trigger_no_answer(make_line, monkeypatch):
    """A ledger that fails between trigger and frame: the trigger is NotDecidable, disk_full, the frame refused."""
    line = make_line()
    line.trigger()

    def fail(*_args, **_keys):
        raise LedgerError("the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(line.records.ledger, "frame", fail)
        line.frame(trigger_id=1)
    assert line.of(b"plc") == [("NotDecidable", "disk_full", 1)]
    assert line.of(b"cam") == [("unrecorded", "none", 1)]


@pytest.mark.parametrize("mode", ["ahead", "with_frame"])
def test_a_ledger_that_cannot_be_read_costs_no_answer(make_line, monkeypatch, mode):
    """Whether it came before is not known: NotDecidable, disk_full, at once; the next one is as ever."""
    line = make_line(triggers=mode)

    def fail(*_args, **_keys):
        raise LedgerError("the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr("runtime.ledger.lookup.last_frame_id", fail)
        patch.setattr("runtime.ledger.lookup.newest_of_id", fail)
        line.frame(part_id="SN-1") if mode == "with_frame" else line.trigger(b"cam", part_id="SN-1")
    assert [each[:2] for each in line.of(b"cam")] == [("NotDecidable", "disk_full")]
    assert line.published[0].part_id == "SN-1"
    assert totals(line).get("frames.dropped.unread", 0) == (mode == "with_frame")
    if mode == "with_frame":
        line.frame(frame_id=1)
        line.finish()
        assert line.of(b"cam")[1:] == [("OK", "none", None)]


def test_without_a_ledger_triggers_are_matched_all_the_same(make_line):
    """A bench has no records: triggers wait, join and expire as elsewhere."""
    line = make_line(ledger=False)
    line.trigger(trigger_id=1)
    line.trigger(trigger_id=2)
    line.frame(trigger_id=2)
    line.finish()
    line.wait(100)
    assert line.of(b"plc") == [("OK", "none", 2), ("NotDecidable", "camera_lost", 1)]


def test_the_stored_inspection_of_a_trigger_alone(make_line):
    """The record names station, product and detector, and no frame."""
    line = make_line()
    line.trigger(part_id="SN-1")
    line.wait(100)
    with Reader(line.folder / "ledger.sqlite") as reader:
        stored = reader.inspection(1)
    assert (stored.frame, stored.part_id, stored.product, stored.detector) == (None, "SN-1", "part", "played")
    assert (stored.received_ns, stored.latency_us) == (EPOCH + 1, 100_000)


def test_how_many_wait_is_told(make_line):
    """Status has the triggers without frame and the frames without trigger, and when something is due."""
    line = make_line()
    assert (line.intake.status("top"), line.intake.next_due_ns()) == ({"triggers_waiting": 0, "frames_held": 0}, None)
    line.trigger()
    line.frame(trigger_id=7)
    assert line.intake.status("top") == {"triggers_waiting": 1, "frames_held": 1}
    assert line.intake.next_due_ns() == line.clock.now_ns + 20 * MS
