"""Keeps Python's garbage collector from standing still over what a process has had since it began.

Modules, settings and what a detector's libraries bring are hundreds of thousands of objects that never become garbage.
A full collection looks at each of them, at whatever moment it comes, with a part waiting.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Collect once, then leave out of every later collection all there is: for a process that has loaded and begins.

    What is in use now and becomes garbage later is still freed, unless it refers to itself.
    """
    gc.collect()
    gc.freeze()
