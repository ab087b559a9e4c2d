"""A wheel in a folder of its own: installed where nobody else looks, never into the caller's environment."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from runtime.errors import ConfigError

_TIMEOUT_S = 120


def install(wheel: Path, folder: Path) -> str:
    """Install a wheel into ``folder``, without what it depends on; return the distribution as "name version".

    Raises ``ConfigError`` for a file that is no wheel, or none for this Python. Dependencies are those of the caller's
    environment: the detector will run beside them, and nothing is fetched.
    """
    if not wheel.is_file():
        raise ConfigError(f"expected a wheel to check, found no file {wheel}")
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-compile", "--target", str(folder), str(wheel)]
    try:
        done = subprocess.run([*pip, *options], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{wheel}: expected pip to unpack it within {_TIMEOUT_S} s, found no end: try again"
        ) from error
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())
        raise ConfigError(f"{wheel}: expected a wheel that can be installed here, found one pip refuses: {words[:300]}")
    [found] = distributions(path=[str(folder)])
    return f"{found.name} {found.version}"
