"""A station that changes its template over and over: run as ``python switching_writer.py STORE LEDGER EVIDENCE ID …``.

``opening SECONDS`` on standard input: a forked child takes up store and ledger and works as fast as it can until it is
killed after SECONDS: it activates one template after another, records the swap, and inspects some parts with the new
one. ``working SECONDS``: the seconds begin with its first result. Answers ``killed``, or ``exit CODE`` where the
child ended by itself.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from importlib import util
from pathlib import Path
from types import ModuleType

from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import Event, FrameKey, Ledger, Outbox, Retention, evidence, prune, reconcile
from runtime.store import Store

PRODUCT, DETECTOR = "cap", "hetmm"


def load(path: Path) -> ModuleType:
    """Load a module of another folder of tests, by path: the tests are no package."""
    spec = util.spec_from_file_location(f"switching_{path.stem}", path)
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulator = load(Path(__file__).parents[1] / "runtime" / "test_ledger" / "line.py")


def work(store: Store, path: Path, folder: Path, digests: list[str], *, seed: int, begun: int) -> None:
    """Be the station until killed."""
    rng = random.Random(seed)
    ledger = Ledger(path, simulator.STATION, checkpoint_s=0.004)
    reconcile(ledger, folder)
    line = simulator.Line(ledger, time.time_ns, frames=seed * 1_000_000)
    for each in ledger.open_triggers():
        line.answer(each.trigger, each.frame or FrameKey(each.camera, 0, 0), error=ErrorWord.HOST_LOST)
    ledger.commit()
    box = Outbox(ledger)
    box.register("mes", from_oldest=True)
    while True:
        chosen = rng.choice(digests)
        store.activate(chosen, who="station")
        ledger.note(Event.SWAP, {"template": chosen})
        for _ in range(rng.randrange(1, 6)):
            seq = line.answer(*line.arrive(), template=chosen, verdict=rng.choice([Verdict.OK, Verdict.NOT_OK]))
            if rng.random() < 0.2:
                ledger.keep(evidence.write(folder, seq, Verdict.NOT_OK, {"frame": bytes(500)}))
            ledger.commit()
            os.write(begun, b"x")
        box.ack("mes", ledger.written_seq)
        if rng.random() < 0.1:
            prune(ledger, folder, Retention(most_bytes=400_000), time.time_ns(), limit=300)


def main() -> None:
    """Answer commands until standard input ends."""
    store, path, folder = Store(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    for number, command in enumerate(sys.stdin, start=1):
        moment, seconds = command.split()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                work(store, path, folder, sys.argv[4:], seed=number, begun=writer)
            except BaseException:  # noqa: BLE001 -- a child must never run on into the code of its parent
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        os.close(writer)
        if moment == "working":
            os.read(reader, 1)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        os.close(reader)
        _, status = os.waitpid(child, 0)
        sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
