"""References are read when asked for, and known by their bytes."""

import hashlib

import cv2
import numpy as np
import pytest

from calibration.dataset import references_from
from calibration.references import References
from runtime.errors import ConfigError
from runtime.frame import Frame


@pytest.fixture
def references(tmp_path):
    """Return five references whose pixels are their index."""
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((4, 6), index, np.uint8))
    return References(references_from(tmp_path))


def values(references):
    """Return the pixel value of each."""
    return [int(frame.image[0, 0]) for frame in references]


def test_a_reference_is_a_frame_with_its_name(references):
    """An index, also from the end, gives the frame with its name; beyond the end it is an IndexError."""
    assert isinstance(references[1], Frame)
    assert (references[1].name, int(references[-1].image[0, 0]), len(references)) == ("1.png", 4, 5)
    with pytest.raises(IndexError):
        references[5]


def test_parts_of_the_references(references):
    """A slice, a choice and a rest are references again, in the order asked for."""
    assert values(references[1:4]) == [1, 2, 3]
    assert values(references.only([3, 0])) == [3, 0]
    assert values(references.without([0, 3])) == [1, 2, 4]
    assert isinstance(references[::2], References)


def test_files_are_read_late(references):
    """Choosing reads nothing; a damaged file is an error only when its frame is asked for, with its path."""
    path = references.samples[2].path
    path.write_bytes(b"damaged")
    rest = references[2:].without([1])
    assert len(rest) == 2
    with pytest.raises(ConfigError, match=r"2\.png"):
        rest[0]
    assert values(rest[1:]) == [4]


def test_digests_are_those_of_the_files(references):
    """Provenance names every file with the sha256 of its bytes."""
    files = [sample.path for sample in references.samples]
    assert references.digests == tuple((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)
    assert references.only([1]).digests == references.digests[1:2]
