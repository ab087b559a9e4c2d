"""Judges a run through chaos by what it left behind: the ledger, the camera's notes, what the subscribers wrote down.

Every claim is a number that must be what is expected; ``judge`` says which are not and names the first parts concerned.
A deadline is missed where an inspection was published later than ``deadline + allowance`` after its trigger came, or
the frame that is its own, or where a receipt came later than ``deadline + receipt allowance`` after its part was sent;
a time in which no host lived explains one that spans it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.ledger import Problem, Reader, check
from runtime.ledger.reader import StoredInspection
from runtime.sim import camera, follower
from runtime.sim.plan import DEADLINE_MS, Coming, Kind, Plan, Planned
from runtime.testing.faulty import right_answer
from runtime.wire.messages import decode_inspection

#: What an answer may take beyond its deadline on a machine that lets every process run at once.
ALLOWANCE_MS = 100.0
#: Least share of the sound parts that must have been decided, of those that met a worker and of all: a station that
#: answers nothing but NotDecidable keeps every promise and shows nothing. How long a worker takes to start, and so how
#: many parts meet none, is the machine's affair.
LEAST_DECIDED, LEAST_OF_ALL = 0.25, 0.05
_MET_NO_WORKER = {ErrorWord.DETECTOR_STARTING, ErrorWord.HOST_LOST}
#: Time after a restarted host answers in which cameras find it again (libzmq tries every 100 ms).
RECONNECT_NS = 500_000_000
#: Frames that come in time for the trigger ahead of them.
_IN_TIME = {Coming.AFTER, Coming.BEFORE, Coming.TWICE}
#: Parts and problems named in one sentence.
_NAMED = 5
#: What begins a worker's memory anew.
_RESTARTS = ("restart", "opened", "swap")
CAMERA_FILE, DURABLE_FILE, LIVE_FILE = "camera.txt", "durable.txt", "live.txt"
DURABLE = "mes"


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing the run must show; ``named``: what speaks against it, empty if nothing does."""

    claim: str
    expected: int
    found: int
    named: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is so."""
        return self.expected == self.found


@dataclass(frozen=True)
class Evidence:
    """What a run left behind.

    ``down``: times (UTC ns, from and to) in which no host lived; ``stall_ms``: the longest time this machine kept a
    process waiting that wanted to run.
    """

    plan: Plan
    folder: Path
    down: Sequence[tuple[int, int]]
    stall_ms: float
    ended: Sequence[str] = ()
    """How hosts ended that nobody killed."""

    @property
    def allowance_ms(self) -> float:
        """What an inspection may take beyond its deadline: the host's thread may be kept waiting once."""
        return ALLOWANCE_MS + self.stall_ms

    @property
    def receipt_allowance_ms(self) -> float:
        """What a receipt may take: the camera waits to send, the host to read and answer, the camera to hear it."""
        return ALLOWANCE_MS + 3 * self.stall_ms


class Books:
    """The records of a run, read once: ``stored`` in order, and the same by trigger id."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.plan = evidence, evidence.plan
        ledger = evidence.folder / "ledger"
        self.problems: list[Problem] = check(ledger / "ledger.sqlite", folder=ledger / "evidence")
        with Reader(ledger / "ledger.sqlite") as reader:
            self.stored = list(reader.inspections())
            self.restarts = sorted(each.record for kind in _RESTARTS for each in reader.events(kind=kind))
            self.totals = reader.head()[3]
        self.inspections = [decode_inspection(each.header) for each in self.stored]
        self.by_trigger: dict[int | None, list[Inspection]] = defaultdict(list)
        for each in self.inspections:
            self.by_trigger[each.trigger_id].append(each)
        self.answers, self.conflicts, self.sent = camera.read(evidence.folder / CAMERA_FILE)
        self.delivered = list(follower.read(evidence.folder / DURABLE_FILE))
        self.live = list(follower.read(evidence.folder / LIVE_FILE))


def judge(evidence: Evidence) -> tuple[list[Claim], dict[str, Any]]:
    """Return every claim, and the figures: outcomes by kind of part, times, what was sent."""
    books = Books(evidence)
    claims = [*_conservation(books), *_truth(books), *_ahead(books), *_deadlines(books), *_deliveries(books)]
    named = "; ".join(str(each) for each in books.problems[:_NAMED])
    claims.append(Claim("problems found by `edgead ledger check`", 0, len(books.problems), named))
    claims.append(Claim("hosts that ended by themselves", 0, len(evidence.ended), "; ".join(evidence.ended)))
    return claims, _figures(books)


def _none(claim: str, against: Iterable[object]) -> Claim:
    """Return the claim that nothing speaks against it."""
    listed = [str(each) for each in against]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return Claim(claim, 0, len(listed), ", ".join(listed[:_NAMED]) + more)


def _conservation(books: Books) -> Iterator[Claim]:
    triggers = len(books.plan.parts)
    numbers = range(triggers)
    lacking = [number for number in numbers if number not in books.by_trigger]
    twice = [number for number, found in books.by_trigger.items() if len(found) > 1]
    strange = [number for number in books.by_trigger if number not in numbers]
    answered = {each.number for each in books.answers}
    silent = sorted(set(numbers) - answered)
    yield Claim("triggers sent = parts with a receipt", triggers, len(answered), f"none for {silent[:_NAMED]}")
    yield Claim("triggers sent = triggers in the ledger", triggers, books.totals["triggers"])
    yield Claim("triggers sent = inspections in the ledger", triggers, len(books.stored), f"none of {lacking[:_NAMED]}")
    yield _none("triggers without inspection", lacking)
    yield _none("triggers with two inspections", twice)
    yield _none("inspections of what is no trigger", strange)
    yield _none("parts whose second receipt contradicts the first", books.conflicts)
    by_seq = {each.seq: each for each in books.inspections}
    yield _none(
        "receipts that contradict the ledger",
        [
            f"part {each.number}"
            for each in books.answers
            if (found := by_seq.get(each.seq)) is None
            or (found.trigger_id, found.verdict, found.error) != (each.number, each.verdict, each.error)
        ],
    )
    yield _none("numbers missing in the sequence", sorted(set(range(1, len(by_seq) + 1)) - by_seq.keys()))


def _truth(books: Books) -> Iterator[Claim]:
    passed, rejected, wrong = [], [], []
    for each in books.inspections:
        part = _part(books, each)
        if each.verdict is Verdict.NOT_DECIDABLE or part is None or part.kind is Kind.FROZEN:
            continue  # a frozen picture is judged together with the part it shows, below
        if not part.sound or (part.kind is Kind.BAD and each.verdict is Verdict.OK):
            passed.append(f"part {part.number} ({part.label}) is {each.verdict.label} as result {each.seq}")
        if part.kind is not Kind.BAD and each.verdict is Verdict.NOT_OK:
            rejected.append(f"part {part.number} ({part.label})")
        if part.sound and abs((each.score or 0.0) - right_answer(books.plan.image(part.number))[1]) > 1e-6:  # noqa: PLR2004 -- float32
            wrong.append(f"part {part.number}: {each.score}")
    yield _none("faulted or bad parts that are OK", passed)
    yield _none("frozen pictures that are OK", _frozen(books))
    yield _none("good parts that are NotOK", rejected)
    yield _none("decided parts with another part's score", wrong)
    yield _enough("too few sound parts decided", books, [part for part in books.plan.parts if part.sound])


def _enough(claim: str, books: Books, sound: Sequence[Planned]) -> Claim:
    """Return the claim that enough of some sound parts were decided."""
    found = [each for part in sound for each in books.by_trigger.get(part.number, ())]
    decided = sum(each.verdict is not Verdict.NOT_DECIDABLE for each in found)
    met = len(sound) - sum(each.error in _MET_NO_WORKER for each in found)
    least = max(LEAST_DECIDED * met, int(LEAST_OF_ALL * len(sound)))
    named = f"{decided} of {len(sound)} were decided, {met} met a worker; expected {least:.1f}"
    return Claim(claim, 0, int(decided < least), named)


def _ahead(books: Books) -> Iterator[Claim]:
    """Judge the triggers that came ahead; that each has one answer is among the claims about all triggers."""
    announced = [part for part in books.plan.parts if part.coming is not None]
    decided = {each.trigger_id for each in books.inspections if each.verdict is not Verdict.NOT_DECIDABLE}
    blind = [part.number for part in announced if part.coming is Coming.NEVER and part.number in decided]
    yield _none("triggers without frame that are decided", blind)
    sound = [part for part in announced if part.sound and part.coming in _IN_TIME]
    yield _enough("too few parts with a trigger ahead decided", books, sound)


def _part(books: Books, inspection: Inspection) -> Planned | None:
    """Return the part an inspection is about, None if it is none of the plan's."""
    number = inspection.trigger_id
    return None if number is None or number >= len(books.plan.parts) else books.plan.parts[number]


def _frozen(books: Books) -> Iterator[str]:
    """Name frames that show what the same worker has just been shown and are decided: one of each picture may be."""
    shown: dict[int, list[StoredInspection]] = defaultdict(list)
    for stored, each in zip(books.stored, books.inspections, strict=True):
        part = _part(books, each)
        if each.verdict is not Verdict.NOT_DECIDABLE and part is not None:
            shown[part.picture].append(stored)
    for picture, stored_ones in shown.items():
        for before, after in pairwise(stored_ones):
            if not any(before.record < record < after.record for record in books.restarts):
                yield f"result {after.seq} shows the picture of part {picture} again"


def _deadlines(books: Books) -> Iterator[Claim]:
    most_ns = (DEADLINE_MS + books.evidence.allowance_ms) * 1e6
    most_receipt_ns = (DEADLINE_MS + books.evidence.receipt_allowance_ms) * 1e6
    late = [
        f"result {each.seq} after {each.latency_us / 1e3:.0f} ms"
        for each in books.inspections
        if each.latency_us * 1000 > most_ns and not _down(books, _demanded_ns(each), each.published_ns)
    ]
    yield _none("inspections past their deadline while the host lived", late)
    late = [
        f"part {each.number} after {(each.answered_ns - each.sent_ns) / 1e6:.0f} ms"
        for each in books.answers
        if each.answered_ns - each.sent_ns > most_receipt_ns and not _down(books, each.sent_ns, each.answered_ns)
    ]
    yield _none("receipts past the deadline while the host lived", late)


def _demanded_ns(inspection: Inspection) -> int:
    """Return when the trigger of an inspection came, UTC: ahead of its frame, or as that."""
    return inspection.published_ns - inspection.latency_us * 1000


def _down(books: Books, from_ns: int, to_ns: int) -> bool:
    """Tell whether no host lived at some time of these."""
    return any(begin <= to_ns and from_ns <= end + RECONNECT_NS for begin, end in books.evidence.down)


def _deliveries(books: Books) -> Iterator[Claim]:
    ledger = {each.result_id: each for each in books.inspections}
    first: dict[str, follower.Line] = {}
    for line in books.delivered:
        first.setdefault(line.result_id, line)
    seqs = [line.seq for line in first.values()]
    lacking = [each.seq for each in books.inspections if each.result_id not in first]
    named = f"results {lacking[:_NAMED]} did not arrive" if lacking else ""
    yield Claim("triggers sent = results of the durable subscriber", len(books.plan.parts), len(first), named)
    yield _none("results delivered out of order", [after for before, after in pairwise(seqs) if after <= before])
    for name, lines in (("delivered", books.delivered), ("live", books.live)):
        yield _none(
            f"{name} results that contradict the ledger",
            [
                f"result {line.seq}"
                for line in lines
                if (found := ledger.get(line.result_id)) is None
                or (found.seq, found.trigger_id, found.verdict, found.error)
                != (line.seq, line.trigger_id, line.verdict, line.error)
            ],
        )


def _figures(books: Books) -> dict[str, Any]:
    """Return what else a reader wants to know of the run."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for each in books.inspections:
        if (part := _part(books, each)) is not None:
            word = each.verdict.label if each.verdict is not Verdict.NOT_DECIDABLE else each.error.value
            outcomes[part.label][word] += 1
    alive = [each for each in books.inspections if not _down(books, _demanded_ns(each), each.published_ns)]
    worst_us = max((each.latency_us for each in alive), default=0)
    answers = [each for each in books.answers if not _down(books, each.sent_ns, each.answered_ns)]
    worst_receipt_ns = max((each.answered_ns - each.sent_ns for each in answers), default=0)
    return {
        "outcomes": {label: dict(found.most_common()) for label, found in sorted(outcomes.items())},
        "camera": dict(sorted(books.sent.items())),
        "worker_restarts": books.totals["events.restart"],
        "templates": len({each.template for each in books.inspections if each.template}),
        "swap_events": books.totals["events.swap"],
        "late_answers": books.totals["events.late_answer"],
        "duplicates_refused": books.totals["frames.dropped.duplicate"],
        "repeated_deliveries": len(books.delivered) - len({line.result_id for line in books.delivered}),
        "historical_deliveries": sum(line.historical for line in books.delivered),
        "live_results": len(books.live),
        "deadline_ms": DEADLINE_MS,
        "allowance_ms": round(books.evidence.allowance_ms, 1),
        "receipt_allowance_ms": round(books.evidence.receipt_allowance_ms, 1),
        "worst_inspection_ms": round(worst_us / 1e3, 1),
        "worst_receipt_ms": round(worst_receipt_ns / 1e6, 1),
    }


def as_json(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Return the claims as plain values."""
    return [asdict(each) | {"holds": each.holds} for each in claims]
