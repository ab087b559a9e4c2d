"""The detector worker process: loads one detector with one template, then answers frames out of shared memory.

It may raise, hang or be killed at any time; the host answers for it. Started by ``runtime.supervisor`` as
``python -P -m runtime.worker LINK_FD SLOTS_FD``; the first record on the link says what to load.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import EdgeadError
from runtime.inspection import ErrorWord
from runtime.link import Link
from runtime.openmp import wait_passively
from runtime.slots import Slots

if TYPE_CHECKING:
    import numpy as np

    from runtime.engine import Engine

log = logging.getLogger("edgead.worker")

#: Frames in a row a detector may raise on before its process ends and the host starts a fresh one: a CUDA fault, for
#: one, stays with the process for good.
MAX_FAILURES = 5
#: Longest error text sent to the host.
MAX_DETAIL_CHARACTERS = 300


def main() -> None:
    """Run until the host says stop or is gone."""
    wait_passively()
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
    slots = Slots(slots_fd, setup["slots"], setup["frame_bytes"], setup["answer_bytes"])
    try:
        engine = _load(setup)
    except Exception as error:  # the process's top: whatever a plugin does while loading becomes a record for the host
        log.exception("the detector could not be loaded")
        link.send({"op": "failed", "error": _detail(error)})
        return
    link.send({"op": "ready"})
    failures = 0
    while failures < MAX_FAILURES:
        record = link.receive()
        if record is None or record["op"] == "stop":
            return
        answer = _inspect(engine, slots, record, setup)
        failures = failures + 1 if answer.get("error") == ErrorWord.DETECTOR_ERROR else 0
        link.send(answer)
    log.error(
        "the detector raised on %d frames in a row: this process may be poisoned, a fresh one is needed", failures
    )


def _load(setup: dict[str, Any]) -> Engine:
    """Load plugin, template and engine, and answer the golden frames: a proof, and the first real frame is not slow."""
    from runtime.engine import Engine
    from runtime.registry import load_plugins
    from runtime.selftest import check_version, self_test
    from runtime.store import Store

    detector = load_plugins(setup["builtins"]).detector(setup["detector"])
    template = Store(Path(setup["store"])).template(setup["template"])
    check_version(template, detector.version)
    engine = Engine(detector, template.content(), device=setup["device"], threads=setup["threads"])
    self_test(engine, template)
    return engine


def _inspect(engine: Engine, slots: Slots, record: dict[str, Any], setup: dict[str, Any]) -> dict[str, Any]:
    """Answer one frame. The per-detector guard: anything the detector raises becomes an error word, never a verdict."""
    from runtime.engine import ResultError

    started = time.monotonic_ns()
    answer: dict[str, Any] = {"op": "done", "ticket": record["ticket"]}
    try:
        image = _image(slots, record)
        result = engine.infer(image)
        answer["score"] = result.score
        _write_answer(slots, record["slot"], image, result.anomaly_map, setup=setup, answer=answer)
    except ResultError as error:
        answer.update(op="undecided", error=ErrorWord.RESULT_BAD.value, detail=_detail(error))
    except Exception as error:  # noqa: BLE001 - the per-detector guard: logged by _complain, answered, counted
        _complain(error)
        answer.update(op="undecided", error=ErrorWord.DETECTOR_ERROR.value, detail=_detail(error))
    answer["detect_us"] = (time.monotonic_ns() - started) // 1000
    return answer


_complaints: Counter[str] = Counter()


def _complain(error: Exception) -> None:
    """Log an error with its traceback the first time, then every thousandth: a log must not fill the disk."""
    text = _detail(error)[:80]
    if len(_complaints) >= 1000:  # noqa: PLR2004 - texts that differ every time
        _complaints.clear()
    _complaints[text] += 1
    if _complaints[text] % 1000 == 1:
        log.error("the detector raised (%d times so far)", _complaints[text], exc_info=error)


def _image(slots: Slots, record: dict[str, Any]) -> np.ndarray:
    """Return the slot's frame as uint8 [H, W] or [H, W, 3] RGB, uncopied unless the channels must be swapped."""
    import numpy as np

    height, width, channels = record["shape"]
    pixels = np.frombuffer(slots.frame(record["slot"], height * width * channels), np.uint8)
    image = pixels.reshape((height, width) if channels == 1 else (height, width, channels))
    return np.ascontiguousarray(image[:, :, ::-1]) if record["format"] == "bgr8" else image


def _write_answer(
    slots: Slots,
    slot: int,
    image: np.ndarray,
    anomaly_map: np.ndarray,
    *,
    setup: dict[str, Any],
    answer: dict[str, Any],
) -> None:
    """Put the encoded map and preview into the slot and describe them in ``answer``."""
    from runtime.answers import encode_map, encode_preview

    info, payload = encode_map(anomaly_map, setup["map"])
    map_bytes = memoryview(payload).cast("B") if info else memoryview(b"")  # type: ignore[arg-type]
    preview = encode_preview(image) if setup["preview"] else b""
    total = map_bytes.nbytes + len(preview)
    if total > slots.answer_bytes:
        raise EdgeadError(f"expected an answer of at most {slots.answer_bytes} bytes, found {total}")
    room = slots.answer(slot, total)
    room[: map_bytes.nbytes] = map_bytes
    room[map_bytes.nbytes :] = preview
    answer["map_bytes"], answer["preview_bytes"] = map_bytes.nbytes, len(preview)
    if info:
        answer["map"] = {
            "encoding": info.encoding,
            "dtype": info.dtype,
            "height": info.height,
            "width": info.width,
            "scale": info.scale,
            "offset": info.offset,
        }


def _detail(error: BaseException) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    # A file name in the text may hold what UTF-8, and so the link, cannot carry.
    return text.encode("utf-8", "replace").decode()[:MAX_DETAIL_CHARACTERS]


if __name__ == "__main__":
    main()
