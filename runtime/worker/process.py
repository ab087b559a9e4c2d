"""The detector worker process: loads one detector with one template, then answers frames out of shared memory.

It may raise, hang or be killed at any time; the host answers for it. Started by ``runtime.lane.supervisor`` as
``python -P -m runtime.worker.process LINK_FD SLOTS_FD``; the first record on the link says what to load.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.garbage import settle
from runtime.process_defaults import set_process_defaults
from runtime.worker.link import MAX_REFUSAL_CHARACTERS, Link, one_line
from runtime.worker.slots import Slots

if TYPE_CHECKING:
    from runtime.engines.choice import Chosen

log = logging.getLogger("edgead.worker")

#: How far a worker of low priority steps back. Under contention it gets a tenth of what a normal one does.
LOW_NICE = 10


def main() -> None:
    """Run until the host says stop or is gone."""
    set_process_defaults()
    # Ctrl-C reaches the whole terminal group and systemd's SIGTERM the whole service: the host decides the order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_host()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    link = Link.adopt(int(sys.argv[1]))
    try:
        setup = link.receive()
        if setup is not None:
            _serve(link, int(sys.argv[2]), setup)
    except EOFError:
        log.info("the host is gone; worker ends")


def _die_with_host() -> None:
    """Have the kernel kill this process when the host dies, even while a detector hangs and nobody reads the link."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    if ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL) != 0:
        log.warning("prctl refused: a hung detector will outlive a killed host")


def _serve(link: Link, slots_fd: int, setup: dict[str, Any]) -> None:
    if setup["priority"] == "low":  # before torch's threads are there, which inherit it
        os.nice(LOW_NICE)
    slots = Slots(slots_fd, setup["slots"], setup["frame_bytes"], setup["answer_bytes"])
    try:
        chosen = load(setup)
    except Exception as error:  # the process's top: whatever a plugin does while loading becomes a record for the host
        log.exception("the detector could not be loaded")
        link.send({"op": "failed", "error": one_line(error, MAX_REFUSAL_CHARACTERS)})
        return
    from runtime.worker.inspector import FrameChecks, Inspector

    checks = FrameChecks(setup["exposure"], setup["repeat_limit"])
    engine, proof = chosen.engine, chosen.proof
    inspector = Inspector(engine, slots, checks, proof.kept, map_encoding=setup["map"], preview=setup["preview"])
    settle()
    log.info("ready, %s: %s", chosen.backend, proof.report.sentence())
    ready = {"op": "ready", "parity": proof.report.as_json(), "engine": chosen.as_json()}
    link.send(ready | {"device_memory": _device_memory(setup["device"])})
    inspector.serve(link)


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
    return choose(detector, template, EngineSettings.read(setup["engine"]), setup["device"], setup["threads"])


if __name__ == "__main__":
    main()
