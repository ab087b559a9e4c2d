"""Good frames on disk, decoded when asked for, with the digest of every file for the template's provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import overload

from calibration.dataset import Sample
from runtime.frame import Frame
from runtime.images import read_image


class References(Sequence[Frame]):
    """The samples as frames: ``references[i]`` reads one file; a slice is lazy too."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> References: ...
    def __getitem__(self, index: int | slice) -> Frame | References:
        if isinstance(index, slice):
            return References(self.samples[index])
        sample = self.samples[index]
        return Frame(read_image(sample.path), sample.name)

    def only(self, indices: Sequence[int]) -> References:
        """Return the references at ``indices``, in that order."""
        return References([self.samples[index] for index in indices])

    def without(self, indices: Sequence[int]) -> References:
        """Return the references but those at ``indices``."""
        gone = set(indices)
        return References([sample for index, sample in enumerate(self.samples) if index not in gone])

    @cached_property
    def digests(self) -> tuple[tuple[str, str], ...]:
        """(name, sha256 of the file) of every sample."""
        return tuple((sample.name, hashlib.sha256(sample.path.read_bytes()).hexdigest()) for sample in self.samples)
