"""How torch's CPU threads wait for each other: asleep, not spinning.

The OpenMP runtime torch brings spins at the end of every parallel region by default. Beside any other busy process (a
camera, the host, a second worker) the spinning threads take the cores from the thread they are waiting for: with two
threads on two cores and one busy neighbour the backbone took 1,250 ms a frame spinning and 14 ms asleep.
The runtime reads the variable once, when torch is loaded: call this, or hand the environment on, before that.
"""

from __future__ import annotations

import os

VARIABLE = "OMP_WAIT_POLICY"
PASSIVE = "PASSIVE"


def wait_passively() -> None:
    """Ask for sleeping waits in this process and its children; what the user has set stays."""
    os.environ.setdefault(VARIABLE, PASSIVE)
