"""The benchmark's own arithmetic: blocks in turns, percentiles and ratios of what was measured."""

import time

import pytest

from runtime.bench import BLOCK, FIRST_CONTACT, WINDOW, _case, _Echo
from runtime.frame import PixelFormat
from runtime.wire.messages import decode_frame


class Side:
    """One side whose times are given: ``one`` takes as many microseconds, ``many`` as many seconds."""

    def __init__(self, log, name, microseconds, seconds):
        """Keep what to answer."""
        self.log, self.name, self.microseconds, self.seconds = log, name, microseconds, seconds
        self.messages = set()

    def one(self, message):
        """Move a message."""
        self.log.append(self.name)
        self.messages.add(tuple(bytes(part) for part in message))
        return self.microseconds

    def many(self, messages):
        """Move messages."""
        self.messages |= {tuple(bytes(part) for part in message) for message in messages}
        self.log.append(f"{self.name} x {len(messages)}")
        return self.seconds


def test_a_case_measures_all_sides_in_turns():
    """All sides move the same bytes in alternating blocks, no frame twice; the figures are those of their times."""
    log, seen = [], []
    sides = {
        "echo": Side(log, "e", 500, 0.5), "host": Side(log, "h", 2000, 1.0), "ledger": Side(log, "l", 3000, 2.0),
    }  # fmt: skip
    record = _case(sides, (3, 5, PixelFormat.RGB8), 30, lambda *each: seen.append(each))
    assert record == {
        "case": "3 x 5 rgb8", "bytes": 45,
        "echo_ms_p50": 0.5, "host_ms_p50": 2.0, "ledger_ms_p50": 3.0, "ratio_p50": 4.0, "ledger_ratio_p50": 6.0,
        "echo_ms_p99": 0.5, "host_ms_p99": 2.0, "ledger_ms_p99": 3.0, "ratio_p99": 4.0, "ledger_ratio_p99": 6.0,
        "echo_fps": 2.0 * BLOCK, "host_fps": 1.0 * BLOCK, "ledger_fps": 0.5 * BLOCK,
    }  # fmt: skip
    block = [each for name in "ehl" for each in [*[name] * BLOCK, f"{name} x {BLOCK}"]]
    assert log == [*"ehl" * FIRST_CONTACT, *block, *block]
    assert seen == [(1, 2, "3 x 5 rgb8"), (2, 2, "3 x 5 rgb8")]
    assert sides["echo"].messages == sides["host"].messages == sides["ledger"].messages
    read = [decode_frame([memoryview(part) for part in message]) for message in sides["host"].messages]
    assert sorted(header.frame_id for header, _ in read) == list(range(FIRST_CONTACT + 4 * BLOCK))
    assert {(header.camera, header.shape, len(pixels)) for header, pixels in read} == {("bench", (3, 5, 3), 45)}
    assert len({header.session for header, _ in read}) == 1


def test_what_follows_an_answer_is_taken_but_not_timed():
    """Receipts are read after the clock has stopped, as many as frames were sent."""
    rested = []

    class Slow(_Echo):
        def __init__(self):
            pass

        def _send(self, _message):
            pass

        def _receive(self):
            pass

        def _rest(self, number):
            rested.append(number)
            time.sleep(0.05)

    echo = Slow()
    assert echo.one([]) < 50_000
    assert echo.many([[]] * 9) < 0.05
    assert rested == [1, 9]


@pytest.mark.parametrize("count", [1, WINDOW, 3 * WINDOW])
def test_throughput_keeps_a_window(count):
    """As many messages are received as sent, and never more than the window are on their way."""

    class Counting(_Echo):
        def __init__(self):
            self.sent = self.received = self.most = 0

        def _send(self, _message):
            self.sent += 1
            self.most = max(self.most, self.sent - self.received)

        def _receive(self):
            self.received += 1

    echo = Counting()
    assert echo.many([[]] * count) >= 0
    assert echo.sent == echo.received == count
    assert echo.most == min(count, WINDOW)
