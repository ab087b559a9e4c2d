"""Watches the first parts after a swap and says when it must be taken back.

Every rule is a number of parts that must not be exceeded within the ``parts`` watched, worked out once from the summary
of the lane before. So a swap is taken back with the first part that makes it certain, and the outcome does not depend
on when anybody looks. A lane before with fewer than ``LEAST_PARTS`` has no rates to compare with: then only the
undecided are counted, against none.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.inspection import Verdict
from runtime.lane.track import Summary
from runtime.station.config import Guard as Settings

#: Parts of the lane before that make a rate worth comparing with.
LEAST_PARTS = 20
#: Share of the parts that may be slow.
SLOW_SHARE = 0.1
#: What shares times parts may miss a whole number by.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class _Rule:
    """More than ``most`` parts of this kind is too many. ``before``: the figure of the lane before, in words."""

    what: str
    most: float
    before: str


class Guard:
    """One swap's. ``before``: summary of the lane that was relieved; ``deadline_ms``: of the one that took over."""

    def __init__(self, settings: Settings, before: Summary, deadline_ms: int) -> None:
        self.parts = settings.parts
        self.seen = 0
        self._counts = {"undecided": 0, "not_ok": 0, "ok": 0, "slow": 0}
        self._rules: dict[str, _Rule] = {}
        is_known = before.parts >= LEAST_PARTS
        share = before.undecided if is_known else 0.0
        if settings.undecided is not None:
            most = (share + settings.undecided) * self.parts
            self._rules["undecided"] = _Rule("NotDecidable", most, f"{share:.0%}")
        if settings.verdict is not None and is_known:
            most, least = before.not_ok + settings.verdict, 1 - before.not_ok + settings.verdict
            self._rules["not_ok"] = _Rule("NotOK", most * self.parts, f"{before.not_ok:.0%}")
            self._rules["ok"] = _Rule("OK", least * self.parts, f"{1 - before.not_ok:.0%}")
        self._slow_us = float("inf")
        if settings.latency is not None and is_known:
            self._slow_us = max(settings.latency * before.latency_us, deadline_ms * 500)
            p95 = f"95 % within {before.latency_us / 1000:.1f} ms"
            self._rules["slow"] = _Rule(f"slower than {self._slow_us / 1000:.1f} ms", SLOW_SHARE * self.parts, p95)

    @property
    def is_over(self) -> bool:
        """Whether all parts have been seen."""
        return self.seen >= self.parts

    def see(self, verdict: Verdict, latency_us: int) -> str | None:
        """Count one part; return why the swap must be taken back, or None. Parts beyond the last are not counted."""
        if self.is_over:
            return None
        self.seen += 1
        kind = {Verdict.NOT_DECIDABLE: "undecided", Verdict.NOT_OK: "not_ok", Verdict.OK: "ok"}[verdict]
        self._counts[kind] += 1
        self._counts["slow"] += latency_us > self._slow_us
        for name, rule in self._rules.items():
            if self._counts[name] > rule.most + _ROUNDING:
                return (
                    f"{self._counts[name]} of {self.seen} parts {rule.what}, expected at most {rule.most:g} of "
                    f"{self.parts} (before the swap: {rule.before})"
                )
        return None
