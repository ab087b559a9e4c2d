"""Torch's threads sleep while they wait, in every process of edgead that runs a detector."""

import os
import subprocess
import sys

import pytest

from runtime.engines.openmp import PASSIVE, VARIABLE


@pytest.mark.parametrize(("given", "found"), [(None, PASSIVE), ("ACTIVE", "ACTIVE")])
def test_passive_unless_the_user_says_otherwise(given, found):
    """The OpenMP runtime loaded with torch reports the policy edgead asked for, or the user's own."""
    program = "from runtime.engines.openmp import wait_passively; wait_passively(); import torch; torch.ones(8) + 1"
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"OMP_DISPLAY_ENV": "TRUE"} | ({VARIABLE: given} if given else {})
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert f"{VARIABLE} = '{found}'" in done.stderr
