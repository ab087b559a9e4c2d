"""Online: frame in, inspection out, template swapped under it. Imports nothing but itself (see docs/decisions)."""
