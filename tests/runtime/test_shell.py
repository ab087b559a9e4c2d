"""Exit codes, the one line of a failure, and signals that wait for the right moment."""

import signal
import subprocess
import threading

import pytest

from runtime import errors
from runtime.shell import run_command, signals_held_back


class UsageError(Exception):
    """Click's, as far as it is used."""

    def __init__(self, text, path):
        """Keep what click keeps."""
        self.text = text
        self.ctx = type("Context", (), {"command_path": path}) if path else None

    def format_message(self):
        """Return the text."""
        return self.text


def run(outcome, capsys):
    """Run a command that returns or raises ``outcome``; return exit code and stderr."""

    def app():
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with pytest.raises(SystemExit) as ended:
        run_command(app, UsageError)
    captured = capsys.readouterr()
    assert captured.out == ""
    return ended.value.code, captured.err


@pytest.mark.parametrize(
    ("outcome", "code", "line"),
    [
        (None, 0, ""),
        (0, 0, ""),
        (1, 1, ""),
        (130, 130, "edgead: interrupted\n"),
        (errors.EdgeadError("x"), 1, "edgead: x\n"),
        (errors.ConfigError("x"), 2, "edgead: x\n"),
        (errors.WireError("bad_header", "x"), 3, "edgead: bad_header: x\n"),
        (errors.TemplateError("x"), 4, "edgead: x\n"),
        (errors.PluginError("p", "x"), 5, "edgead: plugin 'p': x\n"),
        (errors.WeightsError("x"), 6, "edgead: x\n"),
        (errors.StationError("x"), 7, "edgead: x\n"),
        (UsageError("No such option.", "edgead demo"), 2, "edgead: No such option; see `edgead demo --help`\n"),
        (UsageError("No such option.", None), 2, "edgead: No such option; see `edgead --help`\n"),
        (UsageError("", "edgead"), 2, ""),
    ],
)
def test_how_a_command_ends(outcome, code, line, capsys):
    """Every end has its exit code, and a failure is one line on stderr."""
    assert run(outcome, capsys) == (code, line)


def test_our_own_faults_are_not_hidden(capsys):
    """An exception that is nobody's on purpose keeps its traceback."""
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0, UsageError)
    assert capsys.readouterr().err == ""


def test_sigterm_ends_in_order():
    """SIGTERM unwinds the command, so that what it started ends too, with 143; then the handler is the old one."""
    before = signal.getsignal(signal.SIGTERM)
    unwound = []

    def app():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            unwound.append(True)

    with pytest.raises(SystemExit) as ended:
        run_command(app, UsageError)
    assert (ended.value.code, unwound) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) is before


def test_held_back_signals_come_afterwards():
    """A signal within the block is delivered after it, and the handlers are as before."""
    before = signal.getsignal(signal.SIGINT)
    reached = []

    def body():
        with signals_held_back():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        body()
    assert reached == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_child_does_not_inherit_it():
    """A process started meanwhile can be ended by Ctrl-C as usual."""
    with signals_held_back():
        process = subprocess.Popen(["sleep", "30"])
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


def test_other_threads_may_hold_back_too():
    """In another thread than the main one the block does nothing, and does not fail."""
    done = []

    def body():
        with signals_held_back():
            done.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert done == [True]
