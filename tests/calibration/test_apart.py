"""A job in a process of its own: its records, and the reason when it ends without being done."""

import time
from contextlib import closing
from textwrap import dedent

import pytest

from calibration.apart import EndedError, records

HEAD = "from calibration.apart import serve\nimport os, sys, time\n"


@pytest.fixture
def module(tmp_path):
    """Return a function that writes a module whose ``run(job, report)`` has a body, and gives its name."""

    def write(body):
        lines = "".join(f"    {line}\n" for line in dedent(body).strip().splitlines())
        (tmp_path / "worker_module.py").write_text(f"{HEAD}def run(job, report):\n{lines}\nserve(run)\n")
        return "worker_module"

    return write


def test_records_come_in_order(module, tmp_path):
    """What the job reports arrives as it was said, whatever is printed beside it."""
    name = module("""
        print("noise")
        for number in range(job["count"]):
            report({"number": number, "text": "\\u00e4" * 5000})
    """)
    found = list(records(name, {"count": 30}, paths=[tmp_path]))
    assert [each["number"] for each in found] == list(range(30))
    assert found[0]["text"] == "\u00e4" * 5000


def test_an_exception_is_told(module, tmp_path):
    """A process that ends with a status says so, with what it printed last."""
    name = module("raise RuntimeError('no such lens')")
    with pytest.raises(EndedError, match=r"ended with status 1; it printed last: .*no such lens"):
        list(records(name, {}, paths=[tmp_path]))


def test_a_killed_process_is_told(module, tmp_path):
    """A process ended by a signal is reported with its name, after the records it had made."""
    name = module("report({'first': 1}); os.kill(os.getpid(), 11)")
    with closing(records(name, {}, paths=[tmp_path])) as reported:
        assert next(reported) == {"first": 1}
        with pytest.raises(EndedError, match="was killed by SIGSEGV"):
            next(reported)


def test_silence_is_ended(module, tmp_path):
    """A process that says nothing for too long is killed, with what it has started."""
    name = module("""
        report({"child": os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")})
        time.sleep(600)
    """)
    with closing(records(name, {}, silence_s=2, paths=[tmp_path])) as reported:
        child = next(reported)["child"]
        with pytest.raises(EndedError, match="no end within 2 s: it hangs"):
            next(reported)
    assert not _runs(child)


def test_a_process_that_stays_is_ended(module, tmp_path):
    """A process that has closed its pipe and will not end is killed as one that says nothing."""
    name = module("os.close(int(os.environ['EDGEAD_REPORT_TO'])); time.sleep(600)")
    with pytest.raises(EndedError, match="no end within 2 s: it hangs"):
        list(records(name, {}, silence_s=2, paths=[tmp_path]))


def test_leaving_early_ends_the_process(module, tmp_path):
    """Whoever has heard enough leaves, and the process ends with that."""
    name = module("report({'pid': os.getpid()}); time.sleep(600)")
    with closing(records(name, {}, paths=[tmp_path])) as reported:
        pid = next(reported)["pid"]
    assert not _runs(pid)


def _runs(pid):
    """Tell whether a process is there and no zombie, waiting a moment for its end."""
    from pathlib import Path

    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True
