"""A process that changes a store and is killed: run as ``python writer.py STORE``, told what to do line by line.

``step ACTION ARGUMENT N``: a child does the action and kills itself with SIGKILL just before its N-th call to the disk.
``loop SECONDS ID ID …``: a child activates, rolls back and creates as fast as it can and is killed after SECONDS.
``nobody ID``: a child gives up its rights (root only), reads, and must be refused to activate.
``race ID ID …``: a child activates each in turn, fifteen times, and must not fail.
Each answers one line: ``killed``, or ``exit CODE`` where the child ended by itself. Children are forked: a kill costs
milliseconds, not a start of the interpreter.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

import sample

from runtime.errors import TemplateError
from runtime.store import Store

#: Everything durable.py and pathlib change a disk with.
CALLS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "ftruncate")


def die_at(step: int) -> None:
    """Kill this process just before its call number ``step`` (from 1)."""
    count = itertools.count(1)

    def counted(call):
        def counting(*arguments, **options):
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def act(store: Store, action: str, argument: str) -> None:
    """Do one thing to the store."""
    match action:
        case "activate":
            store.activate(argument, who="writer")
        case "rollback":
            store.rollback("cap", "hetmm", who="writer")
        case "create":
            sample.put(store, int(argument))
        case "import":
            store.import_(argument, who="writer")
        case "found":
            Store.create(argument)


def loop(store: Store, digests: list[str]) -> None:
    """Activate, roll back and create until killed."""
    for number in itertools.count(os.getpid() * 1000):
        for digest in digests:
            store.activate(digest, who="writer")
        store.rollback("cap", "hetmm", who="writer")
        sample.put(store, number)


def read_and_write_as_nobody(root: str, digest: str) -> None:
    """Read, then try to activate, as a user who owns nothing; exit 0 if that is refused and reading works."""
    os.chdir(root)  # the folders above may be closed to that user
    os.setuid(65534)
    store = Store(".")
    assert store.active("cap", "hetmm").bank()
    try:
        store.activate(digest, who="nobody")
    except TemplateError as error:
        os._exit(0 if "run as the user the store belongs to" in str(error) else 3)
    os._exit(4)


def forked(work) -> int:
    """Start a child that does ``work`` and return its process id."""
    if child := os.fork():
        return child
    code = 1
    try:
        work()
        code = 0
    except TemplateError as error:
        sys.stderr.write(f"{error}\n")
    finally:
        os._exit(code)


def main() -> None:
    """Answer commands until standard input ends."""
    root = sys.argv[1]
    for line in sys.stdin:
        command, *words = line.split()
        if command == "step":
            action, argument, step = words

            def work(action=action, argument=argument, step=int(step)) -> None:
                store = Store(root)
                die_at(step)
                act(store, action, argument)

            child = forked(work)
        elif command == "loop":
            child = forked(lambda words=words: loop(Store(root), words[1:]))
            time.sleep(float(words[0]))
            os.kill(child, signal.SIGKILL)
        elif command == "nobody":
            child = forked(lambda words=words: read_and_write_as_nobody(root, words[0]))
        else:
            child = forked(lambda words=words: [act(Store(root), "activate", each) for each in words * 15])
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        sys.stdout.write("killed\n" if killed else f"exit {os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
