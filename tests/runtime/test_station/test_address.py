"""What a peer connects to."""

import pytest

from runtime.errors import ConfigError
from runtime.station.address import reachable


@pytest.mark.parametrize(
    ("bound", "reached"),
    [
        ("tcp://127.0.0.1:5601", "tcp://127.0.0.1:5601"),
        ("tcp://*:5601", "tcp://127.0.0.1:5601"),
        ("tcp://camera-1.plant:5601", "tcp://camera-1.plant:5601"),
        ("ipc:///run/edgead/*", "ipc:///run/edgead/*"),
    ],
)
def test_every_card_is_this_machine(bound, reached):
    """An address of every network card is reached on this machine; others stay as they are."""
    assert reachable(bound) == reached


@pytest.mark.parametrize(
    "text", ["", "5601", "127.0.0.1:5601", "tcp://host", "tcp://host:0", "tcp://host:70000", "udp://h:1"]
)
def test_what_is_no_address_is_refused(text):
    """Anything ZeroMQ could not connect to is refused with an example of what it could."""
    with pytest.raises(ConfigError, match="tcp://127"):
        reachable(text)
