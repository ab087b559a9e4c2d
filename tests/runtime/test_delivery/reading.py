"""What several delivery tests say in one word."""

from runtime.delivery.messages import Subscribe


def seqs(deliveries):
    """Return the sequence numbers of deliveries."""
    return [each.seq for each in deliveries]


def subscription(name, attempt=2):
    """Return a subscribe message."""
    return Subscribe(name=name, session=7, attempt=attempt, credit=10)
