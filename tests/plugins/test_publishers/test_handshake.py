"""The PLC's handshake as a state machine: whatever is written and whenever its process dies, results come once."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgead import StationError
from plugins.publishers.modbus.handshake import Handshake, Phase, Shown
from plugins.publishers.modbus.image import Command, Control, Status


class Rig:
    """A handshake with everything around it in memory: the feed's record, the kept record, raised triggers."""

    def __init__(self):
        self.done, self.settling, self.raised, self.kept = [], [], [], {}
        self.offered, self.deaf = 0, False
        self.start()

    def start(self):
        """Begin a new process: what was settling is lost, what is undone comes again."""
        self.settling.clear()
        self.shake = Handshake(self, buffer=4, memory=self.kept, is_done=self.done.__contains__)
        self.shake.ready = True
        self.shake.begin()
        for number in range(1, self.offered + 1):
            if f"r{number}" not in self.done:
                self.shake.offer(self.result(number))

    def result(self, number):
        """Return a result; its token is its id."""
        return Shown((0,) * 40, f"r{number}", number, None, 1 + number % 3, historical=False, simulated=False,
                     token=f"r{number}")  # fmt: skip

    def offer(self):
        """Let the station make one more result."""
        self.offered += 1
        self.shake.offer(self.result(self.offered))

    def say(self, control, trigger_id=0, part=""):
        """Write the control word."""
        self.shake.command(Command(Control(control), trigger_id, part, 0), 1)

    def remember(self):
        """Let the main thread do what it was asked for."""
        for token in list(self.settling):
            self.settling.remove(token)
            assert token not in self.done, "handed over twice"
            self.done.append(token)
            self.shake.settled(token)

    def settle(self, token):
        """Note what is to be remembered."""
        self.settling.append(token)

    def trigger(self, trigger_id, part_id, recipe_id, raised_ns):
        """Note a trigger."""
        if self.deaf:
            raise StationError("nobody there")
        self.raised.append((trigger_id, part_id, recipe_id, raised_ns))

    def recipe(self, recipe_id):
        """Refuse recipe 99."""
        if recipe_id == 99:
            raise StationError("no such recipe")

    def keep(self, record):
        """Keep it as a file would."""
        self.kept = json.loads(json.dumps(record))


ACTIONS = st.lists(st.sampled_from(["offer", "ack", "low", "remember", "kill", "look"]), max_size=60)


@settings(deadline=None, max_examples=300)
@given(ACTIONS)
def test_every_result_is_taken_once_and_in_order(actions):
    """Any order of results, acknowledgements and kills: each result is seen by the PLC once, in order, none is lost."""
    rig, seen, bits = Rig(), [], Control.BUFFER_ENABLE
    rig.say(bits)

    def look():
        """Do what a PLC does that keeps to the four steps: take what is valid and not acknowledged yet."""
        nonlocal bits
        valid = Status.RESULT_VALID in rig.shake.status()
        if valid and Control.RESULT_ACK not in bits:
            seen.append(rig.shake.shown.seq)
            bits |= Control.RESULT_ACK
        elif not valid and Control.RESULT_ACK in bits:
            bits &= ~Control.RESULT_ACK
        rig.say(bits)

    for action in [*actions, *["look", "remember"] * 2 * (len(actions) + 1)]:
        if action == "offer":
            rig.offer()
        elif action == "remember":
            rig.remember()
        elif action == "kill":
            rig.start()
        else:
            look()
    assert seen == list(range(1, rig.offered + 1))
    assert rig.done == [f"r{number}" for number in seen]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(["up", "down", "kill", "answer"]), max_size=30))
def test_a_trigger_held_high_is_one_trigger(actions):
    """However often the process dies while a trigger is high or waits, it is raised under one name only."""
    rig = Rig()
    rig.say(0)
    up = False
    for action in actions:
        if action == "kill":
            rig.start()
            rig.say(Control.TRIGGER if up else 0, 7, "A")
        elif action == "answer":
            rig.shake.offer(replace(rig.result(1), trigger_id=7))
            break
        else:
            up = action == "up"
            rig.say(Control.TRIGGER if up else 0, 7, "A")
    assert set(rig.raised) <= {(7, "A", 0, 1)}
    assert bool(rig.raised) == ("up" in actions[: actions.index("answer") if "answer" in actions else None])


def test_verdict_bits_are_zero_without_a_valid_result():
    """OK, NOK and UNDECIDED are up only with RESULT_VALID, one of them each time."""
    rig = Rig()
    rig.say(Control.BUFFER_ENABLE)
    verdicts = Status.OK | Status.NOK | Status.UNDECIDED
    for _ in range(6):
        assert not rig.shake.status() & verdicts
        rig.offer()
        assert (rig.shake.status() & verdicts) in (Status.OK, Status.NOK, Status.UNDECIDED)
        rig.say(Control.BUFFER_ENABLE | Control.RESULT_ACK)
        assert rig.shake.phase is Phase.ACKED
        rig.remember()
        rig.say(Control.BUFFER_ENABLE)


def test_a_refused_trigger_is_said():
    """A trigger the station refuses, cannot be given, or comes while offline raises MISSED_TRIGGER, and BUSY falls."""
    rig = Rig()
    rig.say(Control.TRIGGER, 1, "A")
    assert rig.shake.status() & (Status.BUSY | Status.TRIGGER_ACK) == Status.BUSY | Status.TRIGGER_ACK
    rig.shake.answer(1, 0, "unknown_camera")
    assert Status.MISSED_TRIGGER in rig.shake.status()
    assert Status.BUSY not in rig.shake.status()
    rig.say(Control.CLEAR_ERROR)
    rig.deaf = True
    rig.say(Control.TRIGGER, 2, "B")
    assert rig.shake.status() & (Status.MISSED_TRIGGER | Status.TRIGGER_ACK) == Status.MISSED_TRIGGER
    rig.say(Control.CLEAR_ERROR | Control.SET_OFFLINE)
    rig.say(Control.TRIGGER | Control.SET_OFFLINE, 3, "C")
    assert Status.MISSED_TRIGGER in rig.shake.status()
    assert Status.READY not in rig.shake.status()
    assert [each[0] for each in rig.raised] == [1]


def test_a_repeated_trigger_shows_its_first_result_again():
    """A trigger that the station answers with an earlier result shows that result once more."""
    rig = Rig()
    rig.say(Control.BUFFER_ENABLE)
    rig.offer()
    rig.say(Control.BUFFER_ENABLE | Control.RESULT_ACK)
    rig.remember()
    rig.say(Control.BUFFER_ENABLE | Control.TRIGGER, 9, "A")
    rig.shake.answer(9, 1, "")
    assert rig.shake.shown is not None
    assert rig.shake.shown.seq == 1
    assert Status.BUSY not in rig.shake.status()


def test_a_recipe_change_is_answered():
    """RECIPE_BUSY lies between the command and its CMD_ACK; a refusal is RECIPE_ERROR."""
    rig = Rig()
    rig.say(Control.CHANGE_RECIPE)
    assert rig.shake.status() & (Status.RECIPE_BUSY | Status.CMD_ACK) == Status.RECIPE_BUSY
    rig.shake.recipe_done(refused=False)
    assert rig.shake.status() & (Status.RECIPE_BUSY | Status.CMD_ACK | Status.RECIPE_ERROR) == Status.CMD_ACK
    rig.say(0)
    assert Status.CMD_ACK not in rig.shake.status()
    rig.shake.command(Command(Control.CHANGE_RECIPE, 0, "", 99), 1)
    assert Status.RECIPE_ERROR in rig.shake.status()
