"""The registers: what lies where, as values. The result's own come from ``edgead.RESULT_FIELDS``; no Modbus here.

The image (0..39) is written by the station, the control words (100..120) by the PLC. Words are 16 bits, the most
significant word of a larger value first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag

from edgead import RESULT_FIELDS, ResultField

LAYOUT_VERSION = 1
IMAGE_WORDS = 40
CONTROL_ADDRESS, CONTROL_WORDS = 100, 21
_PART_BYTES = 32


class Status(IntFlag):
    """Bits of register 1."""

    READY = 1 << 0
    """A trigger may be raised: the inspection loop turns, this camera is inspected, and nobody set it offline."""
    BUSY = 1 << 1
    """A trigger raised here has no result yet."""
    TRIGGER_ACK = 1 << 2
    """The trigger is taken and written down; lower `trigger`."""
    RESULT_VALID = 1 << 3
    """The image holds a result; take it, then raise `result_ack`."""
    OK = 1 << 4
    """Verdict OK. This bit and the next two are 0 unless RESULT_VALID is 1."""
    NOK = 1 << 5
    """Verdict NotOK."""
    UNDECIDED = 1 << 6
    """Verdict NotDecidable: treat the part as not inspected; the error word says why."""
    ERROR = 1 << 7
    """The error word is not 0."""
    WARNING = 1 << 8
    """Inspection goes on, but something of the station needs a look: `edgead status`."""
    RECIPE_BUSY = 1 << 9
    """A recipe change is under way."""
    RECIPE_ERROR = 1 << 10
    """The last recipe change was refused."""
    MISSED_TRIGGER = 1 << 11
    """A trigger was not taken, or the station refused it; until `clear_error`."""
    BUFFER_OVERRUN = 1 << 12
    """With buffering: more results wait than the buffer holds; none is lost. Without: one was replaced before it was
    acknowledged; until `clear_error`."""
    HISTORICAL = 1 << 13
    """This result is shown later than live, from the record."""
    SIMULATED = 1 << 14
    """This result is not of a real part."""
    CMD_ACK = 1 << 15
    """`change_recipe` or `clear_error` is done; lower it."""


class Control(IntFlag):
    """Bits of register 100."""

    TRIGGER = 1 << 0
    """Raise a trigger with the id, part and recipe in 101..119."""
    RESULT_ACK = 1 << 1
    """The result is taken."""
    BUFFER_ENABLE = 1 << 2
    """Results wait until each is acknowledged; 0: a newer one takes the place of one that is not."""
    CHANGE_RECIPE = 1 << 3
    """Make recipe_id the current recipe."""
    CLEAR_ERROR = 1 << 4
    """Clear MISSED_TRIGGER, BUFFER_OVERRUN, RECIPE_ERROR and the command's error word."""
    SET_OFFLINE = 1 << 5
    """Take no triggers while 1."""


@dataclass(frozen=True, slots=True)
class Word:
    """One entry of the register map, for the documentation and the tests. ``kind``: u16, u32, f32, text32, bits."""

    address: int
    words: int
    kind: str
    name: str
    meaning: str


SEQ_TAIL = 38
STATION_WORDS = (
    Word(0, 1, "u16", "layout_version", f"{LAYOUT_VERSION}"),
    Word(1, 1, "bits", "status", "see the status bits"),
    Word(2, 1, "u16", "heartbeat", "counts answers of the inspection loop, four a second; frozen: not alive"),
    Word(29, 1, "u16", "recipe_current", "the camera's current recipe by its number; 0: none has one"),
    Word(36, 1, "u16", "buffer_free", "results that may still wait before the buffer is full"),
    Word(37, 1, "u16", "config_checksum", "lower 16 bits of the CRC-32 of the station file's content"),
    Word(SEQ_TAIL, 2, "u32", "seq_tail", "equal to seq, else the image was read in pieces: read it again, at once"),
)
CONTROL = (
    Word(100, 1, "bits", "control", "see the control bits"),
    Word(101, 2, "u32", "trigger_id", "number of the trigger"),
    Word(103, 16, "text32", "part_id", "serial number or the like, UTF-8, NUL padded"),
    Word(119, 1, "u16", "recipe_id", "recipe by its number; 0: the current one"),
    Word(120, 1, "u16", "plc_heartbeat", "for the station's log; changes as the PLC likes"),
)
_IN_IMAGE: tuple[ResultField, ...] = tuple(each for each in RESULT_FIELDS if each.register is not None)
RESULT_WORDS = tuple(
    Word(each.register.address, each.register.words, each.register.kind.value, each.name, each.meaning)
    for each in _IN_IMAGE
    if each.register is not None
)


def pack_result(values: Mapping[str, object], recipes: Mapping[str, int]) -> list[int]:
    """Return the 40 registers with a result's words set (``seq_tail`` too) and the station's words 0.

    ``values``: as ``edgead.result_values`` gives them. ``recipes``: recipe id -> its number.
    """
    image = [0] * IMAGE_WORDS
    for each in _IN_IMAGE:
        if each.register is not None:
            at = each.register.address
            image[at : at + each.register.words] = each.register.pack(values[each.name], recipes)  # type: ignore[arg-type]
    head = next(word.address for word in RESULT_WORDS if word.name == "seq")
    image[SEQ_TAIL : SEQ_TAIL + 2] = image[head : head + 2]
    return image


@dataclass(frozen=True, slots=True)
class Command:
    """The PLC's words as values."""

    control: Control
    trigger_id: int
    part_id: str
    recipe_id: int


def read_command(words: Sequence[int]) -> Command:
    """Return what the PLC's registers 100..120 say; ``part_id`` ends at the first NUL, what is no UTF-8 becomes "?"."""
    data = b"".join(word.to_bytes(2, "big") for word in words[3:19])[:_PART_BYTES]
    part = data.split(b"\0", 1)[0].decode("utf-8", "replace").replace("\ufffd", "?")
    return Command(Control(words[0] & 0x3F), words[1] << 16 | words[2], part, words[19])
