"""A server's thread: whatever ends it reaches the main thread, before it listens and after."""

from __future__ import annotations

import threading

import pytest

from edgead import ConfigError, StationError
from plugins.publishers.background import in_background


def serve_and(error, *, after):
    """Return a server that raises; ``after``: when it listens already."""

    async def serve(started, end):
        if after:
            started()
        if error is not None:
            raise error
        await end.wait()

    return serve


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError("in use"), StationError), (ConfigError("no"), ConfigError), (ValueError("library"), ValueError)],
)
@pytest.mark.timeout(30)
def test_a_server_that_does_not_begin_is_an_error(error, expected):
    """Whatever a protocol library raises before it listens is raised: nobody waits for it for ever."""
    entered = False
    with (
        pytest.raises(expected, match=str(error)),
        in_background("toy", "here:1", serve_and(error, after=False), threading.Event()),
    ):
        entered = True
    assert not entered


@pytest.mark.timeout(30)
def test_a_server_that_ends_by_itself_says_why():
    """What ends a server that listened stops its publisher and is raised there, not lost in its thread."""
    stopping = threading.Event()
    with (
        pytest.raises(ValueError, match="library"),
        in_background("toy", "here:1", serve_and(ValueError("library"), after=True), stopping),
    ):
        assert stopping.wait(20)


def test_a_server_that_is_told_to_end_is_no_error():
    """Left in the ordinary way, the context ends the server and raises nothing."""
    stopping, done = threading.Event(), []
    with in_background("toy", "here:1", serve_and(None, after=True), stopping) as post:
        post(done.append, 1)
    assert done == [1]
    assert stopping.is_set()
