"""Checkpoints: the last state whole, another work's refused, damage told."""

import numpy as np
import pytest

from runtime.checkpoint import Checkpoint
from runtime.errors import ConfigError, TemplateError

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(3, np.int32)}


@pytest.fixture
def checkpoint(tmp_path):
    """Return a checkpoint in a folder that is not there yet."""
    return Checkpoint(tmp_path / "deep" / "folder")


def test_what_was_saved_comes_back(checkpoint):
    """Arrays and record are as they were, and the last save counts."""
    assert checkpoint.load("key") is None
    checkpoint.save("key", {}, {"step": 1})
    checkpoint.save("key", ARRAYS, {"step": 2, "scores": [[1, 0.5]]})
    arrays, record = checkpoint.load("key")
    assert record == {"step": 2, "scores": [[1, 0.5]]}
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)


def test_another_works_state_is_refused(checkpoint):
    """A state of other references or settings is never continued: the error says what to do."""
    checkpoint.save("one", ARRAYS, {})
    with pytest.raises(ConfigError, match=r"another's.*name another folder"):
        checkpoint.load("other")


def test_every_damaged_byte_is_found(checkpoint):
    """One flipped bit anywhere, or a file cut short, is a TemplateError that names the file."""
    checkpoint.save("key", ARRAYS, {"step": 1})
    whole = checkpoint.file.read_bytes()
    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 5)]
    for data in damaged:
        checkpoint.file.write_bytes(data)
        with pytest.raises(TemplateError, match=r"checkpoint\.edgead"):
            checkpoint.load("key")


def test_cleared_is_gone(checkpoint):
    """After clear there is nothing to load, and clearing nothing is no error."""
    checkpoint.clear()
    checkpoint.save("key", ARRAYS, {})
    checkpoint.clear()
    assert checkpoint.load("key") is None


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    """A file where the folder should be is a TemplateError, not a trace."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(TemplateError, match="file"):
        Checkpoint(tmp_path / "file" / "below").save("key", ARRAYS, {})
