"""The detector worker process: loads one detector with one template, then answers frames out of shared memory.

It may raise, hang or be killed at any time; the host answers for it. Started by ``runtime.lane.supervisor`` as
``python -P -m runtime.worker.process DOOR_FD``. Through the door (``runtime.worker.door``) come the lanes it serves,
and in the first record of the first one what to load.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.garbage import settle
from runtime.process_defaults import set_process_defaults
from runtime.worker.door import Door, Newcomer
from runtime.worker.link import MAX_REFUSAL_CHARACTERS, one_line

if TYPE_CHECKING:
    from runtime.engines.choice import Chosen

log = logging.getLogger("edgead.worker")

#: How far a worker of low priority steps back. Under contention it gets a tenth of what a normal one does.
LOW_NICE = 10
#: The same on a GPU whose processes share it through NVIDIA's MPS, with the level below normal; nothing without MPS.
MPS_PRIORITY, MPS_BELOW_NORMAL = "CUDA_MPS_CLIENT_PRIORITY", "1"


def main() -> None:
    """Run until the host says stop or is gone."""
    set_process_defaults()
    # Ctrl-C reaches the whole terminal group and systemd's SIGTERM the whole service: the host decides the order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_host()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    door = Door.adopt(int(sys.argv[1]))
    try:
        first = door.take(wait=True)
        if first is not None:
            _serve(door, first)
    except EOFError:
        log.info("the host is gone; worker ends")


def _die_with_host() -> None:
    """Have the kernel kill this process when the host dies, even while a detector hangs and nobody reads the link."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    if ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL) != 0:
        log.warning("prctl refused: a hung detector will outlive a killed host")


def _serve(door: Door, first: Newcomer) -> None:
    setup = first.setup
    if setup["priority"] == "low":
        _step_back()
    try:
        chosen = load(setup)
    except Exception as error:  # the process's top: whatever a plugin does while loading becomes a record for the host
        log.exception("the detector could not be loaded")
        _refuse_all(door, first, {"op": "failed", "error": one_line(error, MAX_REFUSAL_CHARACTERS)})
        return
    from runtime.worker.rounds import Rounds

    engine, proof = chosen.engine, chosen.proof
    settle()
    log.info("ready, %s: %s", chosen.backend, proof.report.sentence())
    ready: dict[str, Any] = {"op": "ready", "parity": proof.report.as_json(), "engine": chosen.as_json()}
    ready["device_memory"] = _device_memory(setup["device"])
    rounds = Rounds(engine, proof.kept, door, ready, wait_ms=setup["batch_wait_ms"])
    rounds.admit(first)
    rounds.admit_waiting()
    rounds.serve()


def _step_back() -> None:
    """Have everybody of normal priority go first: before torch's threads are there, which inherit it."""
    os.nice(LOW_NICE)
    os.environ.setdefault(MPS_PRIORITY, MPS_BELOW_NORMAL)  # read when CUDA begins


def _refuse_all(door: Door, first: Newcomer, record: dict[str, Any]) -> None:
    """Tell every lane that came, so that whichever the host looks at first says why."""
    newcomer: Newcomer | None = first
    while newcomer is not None:
        with contextlib.suppress(EOFError):
            newcomer.link.send(record)
        newcomer.close()
        try:
            newcomer = door.take(wait=False)
        except EOFError:
            return


def _device_memory(device: str) -> dict[str, int] | None:
    """Return bytes free, in all, and used by this process on a CUDA device; None for a CPU."""
    import torch

    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    return {"free": free, "total": total, "used": torch.cuda.memory_reserved(device)}


def load(setup: dict[str, Any]) -> Chosen:
    """Load plugin, template and engine, and answer the golden frames: a proof, and the first real frame is not slow.

    The proof holds one of them, to be answered again while idle.
    """
    from runtime.engines.choice import choose
    from runtime.engines.selftest import check_version
    from runtime.engines.settings import EngineSettings
    from runtime.registry import load_plugins
    from runtime.store import Store

    detector = load_plugins(setup["builtins"]).detector(setup["detector"])
    template = Store(Path(setup["store"])).template(setup["template"])
    check_version(template, detector.version)
    wish = EngineSettings.read(setup["engine"])
    if not setup["shared"]:  # a camera of its own brings no frames of others to put beside its own
        wish = replace(wish, batch=1)
    return choose(detector, template, wish, setup["device"], setup["threads"], priority=setup["priority"])


if __name__ == "__main__":
    main()
