"""Durable delivery: every result to every named subscriber, at least once, in order, over a ROUTER and DEALERs.

``messages`` are bytes and values, ``router`` the sockets. The host's side is ``server`` on top of the ledger's outbox,
with a ``window`` for each connection; a subscriber's is ``intake`` (the rules) and ``client``. What travels is in
docs/delivery.md.
"""
