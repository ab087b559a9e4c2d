"""Build locks: one holder at a time, whatever is swept meanwhile, and no file is left where nobody builds."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from runtime.engines.locks import held, sweep


def test_the_file_is_gone_with_its_holder(tmp_path):
    """While somebody builds the lock file is there; afterwards, and after a failure, it is not."""
    path = tmp_path / "key"
    with held(path, 1):
        assert path.exists()
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), held(path, 1):
        raise ZeroDivisionError
    assert not path.exists()


def test_who_waits_takes_a_new_file(tmp_path):
    """The file a waiter has open is removed by its holder: he holds one of his own, which a third cannot take."""
    path, order = tmp_path / "key", []

    def wait():
        with held(path, 10):
            order.append("second")
            with pytest.raises(TimeoutError), held(path, 0.05):
                order.append("third")

    with held(path, 1):
        other = threading.Thread(target=wait)
        other.start()
        time.sleep(0.1)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_nobody_shares_while_others_sweep(tmp_path):
    """Four threads take a lock over and over while a fifth sweeps: never two at once, and nothing is left."""
    path, inside, most, done = tmp_path / "key", [], [], threading.Event()

    def build():
        for _ in range(25):
            with held(path, 30):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    def tidy():
        while not done.is_set():
            sweep(tmp_path)

    threads = [threading.Thread(target=build) for _ in range(4)]
    tidying = threading.Thread(target=tidy)
    for each in (tidying, *threads):
        each.start()
    for each in threads:
        each.join(60)
    done.set()
    tidying.join(10)
    assert (len(most), max(most)) == (100, 1)
    assert list(tmp_path.iterdir()) == []


_HOLDER = """
import sys, time
from pathlib import Path
from runtime.engines.locks import held
with held(Path(sys.argv[1]), 1):
    print("held", flush=True)
    time.sleep(60)
"""


def test_only_what_nobody_holds_is_swept(tmp_path):
    """The file of a living builder stays; once it is killed its file goes, and the lock can be taken."""
    path = tmp_path / "key"
    command = [sys.executable, "-P", "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            sweep(tmp_path)
            assert path.exists()
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert path.exists()
    sweep(tmp_path)
    assert not path.exists()


def test_a_lock_is_no_link(tmp_path):
    """A symbolic link in a lock's place is refused, not followed."""
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), held(tmp_path / "key", 1):
        pass
    assert not (tmp_path / "elsewhere").exists()
