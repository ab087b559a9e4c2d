"""A station that is killed: run as ``python writer.py LEDGER EVIDENCE DELIVERED``, told what to do line by line.

``kill SECONDS``: a child opens the ledger, closes what the one before left open, and works as fast as it can until it
is killed after SECONDS. Whatever it would send to a subscriber after a commit it appends to DELIVERED, one line
``seq digest`` in one write. Answers ``killed``, or ``exit CODE`` where the child ended by itself. Children are forked:
a kill costs milliseconds, not a start of the interpreter.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import line as simulator

from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import Event, FrameKey, Ledger, Outbox, Retention, evidence, prune, reconcile

SUBSCRIBER = "mes"


def work(path: Path, folder: Path, delivered: int, seed: int) -> None:
    """Be a station until killed."""
    rng = random.Random(seed)
    ledger = Ledger(path, simulator.STATION, checkpoint_s=0.004)
    reconcile(ledger, folder)
    clock = time.time_ns
    line = simulator.Line(ledger, clock, frames=seed * 1_000_000)
    for each in ledger.open_triggers():
        key = each.frame or FrameKey(each.camera, 0, 0)
        line.answer(each.trigger, key, error=ErrorWord.STOPPING)
    ledger.commit()
    box = Outbox(ledger)
    box.register(SUBSCRIBER, from_oldest=True)
    os.write(delivered, b"\n")  # ends the line that a kill may have torn: what comes again must not be glued to it
    inside: list = []
    while True:
        for _ in range(rng.randrange(1, 5)):
            inside.append(line.arrive(trigger_id=line.frames))
            if len(inside) > rng.randrange(4):
                line.answer(*inside.pop(rng.randrange(len(inside))), verdict=rng.choice([Verdict.OK, Verdict.NOT_OK]))
        if rng.random() < 0.1:
            ledger.note(Event.REFUSED, {"topic": rng.randrange(9)})
        if (
            rng.random() < 0.1
            and (seq := ledger.written_seq)
            and not ledger.journal.connection.execute("SELECT 1 FROM evidence WHERE seq = ?", (seq,)).fetchone()
        ):
            ledger.keep(evidence.write(folder, seq, Verdict.NOT_OK, {"frame": bytes(2000)}))
        ledger.commit()
        deliver(box, delivered, rng)
        if rng.random() < 0.05:
            prune(ledger, folder, Retention(most_bytes=600_000), clock(), limit=300)


def deliver(box: Outbox, delivered: int, rng: random.Random) -> None:
    """Send what is pending, and acknowledge some of it."""
    backlog = box.pending(SUBSCRIBER, 20)
    if backlog.gap:
        os.write(delivered, f"{backlog.gap.from_seq} gap-{backlog.gap.to_seq}\n".encode())
    for each in backlog.deliveries:
        os.write(delivered, f"{each.seq} {hashlib.sha256(each.header).hexdigest()}\n".encode())
    if backlog.deliveries and rng.random() < 0.7:
        box.ack(SUBSCRIBER, backlog.deliveries[-1].seq)


def forked(path: Path, folder: Path, delivered: int, seed: int) -> int:
    """Start a child that works and return its process id."""
    if child := os.fork():
        return child
    try:
        work(path, folder, delivered, seed)
    except BaseException:  # noqa: BLE001 -- a child must never run on into the code of its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    """Answer commands until standard input ends."""
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    delivered = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, command in enumerate(sys.stdin, start=1):
        child = forked(path, folder, delivered, number)
        time.sleep(float(command.split()[1]))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
