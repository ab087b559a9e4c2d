"""Which new frames are worth inserting into a template: decided from digests and scores alone.

A frame that scores below the median of the held-out scores looks like what the template already holds: inserting it
would cost room and time for ever and teach nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from calibration.references import References
from runtime.errors import ConfigError, TemplateError
from runtime.store.manifest import Reference
from runtime.store.template import Template

#: Why a frame was skipped, as the summary says it.
KNOWN = "already a reference"
TWICE = "twice among the new frames"
NOTHING_NEW = "below the median held-out score"


def digests_of(frames: References) -> list[str]:
    """Return the sha256 of every frame's file; ``ConfigError`` names one that cannot be read."""
    try:
        return [sha256 for _, sha256 in frames.digests]
    except OSError as error:
        raise ConfigError(
            f"expected image files that can be read, found {error.filename}: {error.strerror}; "
            "check its rights, or take it out of the folder"
        ) from error


def fresh(frames: References, known: Sequence[Reference]) -> tuple[References, dict[str, tuple[str, ...]]]:
    """Return the frames whose bytes are new, each once, and the names of the others by reason."""
    seen = {reference.sha256: KNOWN for reference in known}
    kept: list[int] = []
    skipped: dict[str, list[str]] = {}
    for index, sha256 in enumerate(digests_of(frames)):
        if reason := seen.get(sha256):
            skipped.setdefault(reason, []).append(frames.samples[index].name)
        else:
            seen[sha256] = TWICE
            kept.append(index)
    return frames.only(kept), {reason: tuple(names) for reason, names in skipped.items()}


def worth_inserting(scores: Sequence[float], held_out_scores: Sequence[float]) -> list[int]:
    """Return which frames have something to teach: those that score at least the median of the held-out scores.

    ``scores``: image scores of new frames against the present template. Without held-out scores nothing is known, and
    every frame is worth it.
    """
    least = median(held_out_scores) if held_out_scores else None
    return [index for index, score in enumerate(scores) if least is None or score >= least]


@dataclass(frozen=True)
class Former:
    """The folder a template was calibrated from, to set thresholds anew when ``frames`` are inserted into it."""

    template: Template
    folder: References
    frames: References

    def in_bank(self) -> References:
        """Return the template's references in its order, found by their bytes; names may have changed.

        Raises ``TemplateError`` naming the first of those that are not there.
        """
        places = {sha256: index for index, sha256 in enumerate(digests_of(self.folder))}
        wanted = self.template.manifest.references
        missing = [reference.name for reference in wanted if reference.sha256 not in places]
        if missing:
            raise TemplateError(
                f"template {self.template.digest[:12]}: expected all its {len(wanted)} references to set thresholds "
                f"anew, found {len(wanted) - len(missing)} in the folder given; missing: {', '.join(missing[:3])}"
                f"{' and more' if missing[3:] else ''}; give the folder it was calibrated from, or keep its thresholds"
            )
        return self.folder.only([places[reference.sha256] for reference in wanted])

    def never_inserted(self) -> References:
        """Return the frames of the folder that are neither references of the template nor among the new frames.

        New frames the gate left out are no held-out sample either: they were chosen by their low scores. Raises
        ``ConfigError`` when none is left.
        """
        used = {reference.sha256 for reference in self.template.manifest.references} | set(digests_of(self.frames))
        held = [index for index, sha256 in enumerate(digests_of(self.folder)) if sha256 not in used]
        if not held:
            raise ConfigError(
                "expected good frames the bank does not hold among the former references, to score them held out, "
                "found none: add good frames to that folder, or keep the thresholds"
            )
        return self.folder.only(held)
