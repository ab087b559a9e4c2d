"""What one camera has brought and been answered, over all the lanes it has had."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from runtime.inspection import ErrorWord, Verdict
from runtime.lane.judge import Answer
from runtime.ledger import Event

#: News remembered until somebody asks for them.
MOST_NEWS = 100


@dataclass
class Tally:
    """``counts`` of frames and verdicts, ``errors`` by word, ``past``: what lanes that have ended counted themselves.

    ``news``: what happened besides, for the ledger. ``restarts``: deaths of its workers; the death of one that several
    of its lanes share is one.
    """

    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    past: Counter[str] = field(default_factory=Counter)
    news: deque[tuple[Event, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=MOST_NEWS))
    restarts: int = 0
    #: By worker process: the last of its deaths that was counted.
    _heard: WeakKeyDictionary[object, int] = field(default_factory=WeakKeyDictionary)

    def count(self, answer: Answer) -> Answer:
        """Count an answer and return it."""
        self.counts["inspections"] += 1
        self.counts[_COUNT_NAME[answer.verdict]] += 1
        if answer.error is not ErrorWord.NONE:
            self.errors[answer.error.value] += 1
        return answer

    def died(self, worker: object, since: int, deaths: int) -> None:
        """Count what a lane heard: the deaths ``since`` (excluded) to ``deaths`` (included) of a worker."""
        since = max(since, self._heard.get(worker, 0))
        self.restarts += max(0, deaths - since)
        self._heard[worker] = max(since, deaths)

    def keep(self, counts: Mapping[str, int]) -> None:
        """Add what a lane that has ended counted itself."""
        self.past.update(counts)


_COUNT_NAME = {Verdict.OK: "ok", Verdict.NOT_OK: "not_ok", Verdict.NOT_DECIDABLE: "not_decidable"}
