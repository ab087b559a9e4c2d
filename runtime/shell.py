"""What a command looks like from the shell: one line on stderr when it fails, an exit code, clean signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from runtime.errors import ConfigError, EdgeadError

#: Exit codes beside those of ``runtime.errors``: the shell's own convention, 128 + number of the signal.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def run_command(app: Callable[[], int | None], usage_error: type[Exception]) -> NoReturn:
    """Run ``app`` and exit with its code; a failure is one line on stderr.

    ``app`` returns its exit code, None for 0, and raises ``usage_error`` (click's) for a wrong command line. SIGTERM
    ends the command in order, so that processes it started end too; a station handles it by itself.
    """
    # OpenCV and FFmpeg talk on stderr by themselves; what they mean is in our own line.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app() or 0
        line = "interrupted" if code == INTERRUPTED else ""
    except EdgeadError as error:
        code, line = error.exit_code, str(error)
    except usage_error as error:
        code, line = ConfigError.exit_code, _usage(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    if line:
        print(f"edgead: {line}", file=sys.stderr)  # noqa: T201 - the one place a command's failure is printed
    sys.exit(code)


def _usage(error: Any) -> str:
    """Return one line for click's usage error; empty where it has printed the help already."""
    text = str(error.format_message()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "edgead"
    return f"{text}; see `{command} --help`" if text else ""


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
