"""What a command looks like from the shell: one line on stderr when it fails, an exit code, clean signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM after the block, not within: for what cannot be undone when half done.

    A process that is only half started is nobody's child, and a ZeroMQ socket that is only half made keeps its context
    from ever ending.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _frame: held.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for each in held:
        signal.raise_signal(each)


def _usage(error: Any) -> str:
    """Return one line for click's usage error; empty where it has printed the help already."""
    text = str(error.format_message()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "edgead"
    return f"{text}; see `{command} --help`" if text else ""


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
