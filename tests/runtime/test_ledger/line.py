"""Parts of a line, small: inspections to record, and a ledger driven as the host would. Used by tests and writer.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.inspection import ErrorWord, Inspection, MapInfo, Verdict
from runtime.ledger import FrameKey, Ledger

STATION = "cell4"
SESSION = 2**64 - 3  # sessions are random 64-bit numbers: half of them do not fit SQLite's integer
SECOND_NS = 10**9
START_NS = 1_800_000_000 * SECOND_NS


@dataclass
class Clock:
    """UTC nanoseconds that only move when told to."""

    now_ns: int = START_NS

    def __call__(self):
        """Return the time."""
        return self.now_ns

    def pass_s(self, seconds):
        """Let time pass."""
        self.now_ns += int(seconds * SECOND_NS)


def inspection(seq, key, now_ns, *, verdict=Verdict.OK, error=ErrorWord.NONE, **fields):
    """Return an inspection of a frame; ``error`` makes it NotDecidable."""
    if error is not ErrorWord.NONE:
        verdict = Verdict.NOT_DECIDABLE
    decided = verdict is not Verdict.NOT_DECIDABLE
    score = {Verdict.OK: 0.25, Verdict.NOT_OK: 1.75}.get(verdict)
    values = {
        "result_id": f"run-{seq}",
        "seq": seq,
        "station": STATION,
        "camera": key.camera,
        "session": key.session,
        "frame_id": key.frame_id,
        "verdict": verdict,
        "error": error if decided or error is not ErrorWord.NONE else ErrorWord.DETECTOR_CRASH,
        "score": score,
        "threshold": 1.0 if decided else None,
        "product": "cap",
        "detector": "hetmm",
        "detector_version": "1.0.0",
        "template": "a" * 64,
        "received_ns": now_ns,
        "published_ns": now_ns,
        "latency_us": 25_000,
        "map": MapInfo(encoding="raw", dtype="float16", height=16, width=16) if decided else None,
    }
    return Inspection(**(values | fields))


@dataclass
class Line:
    """A ledger and the clock it lives by; frames are numbered by themselves."""

    ledger: Ledger
    clock: Clock
    frames: int = 0
    headers: dict = field(default_factory=dict)

    def key(self, camera="top"):
        """Return the name of a frame never used before."""
        self.frames += 1
        return FrameKey(camera, SESSION, self.frames)

    def arrive(self, camera="top", **fields):
        """Record a trigger with its frame; return its number and the frame's key."""
        key = self.key(camera)
        now_ns = self.clock()
        trigger = self.ledger.trigger(camera, received_ns=now_ns, deadline_ns=now_ns + SECOND_NS // 10, **fields)
        self.ledger.frame(key, received_ns=now_ns, trigger=trigger)
        return trigger, key

    def answer(self, trigger, key, **fields):
        """Record the inspection of a trigger; return its seq."""
        seq = self.ledger.next_seq
        _, self.headers[seq] = self.ledger.inspect(trigger, inspection(seq, key, self.clock(), **fields))
        return seq

    def parts(self, number, **fields):
        """Record that many parts, a second apart, and commit; return their seqs."""
        seqs = []
        for _ in range(number):
            seqs.append(self.answer(*self.arrive(), **fields))
            self.clock.pass_s(1)
        self.ledger.commit()
        return seqs
