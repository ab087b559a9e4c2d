"""Shared memory between the host and one worker: a fixed number of slots, each with room for a frame and its answer.

An anonymous memory file (memfd) is passed by descriptor to the worker, so nothing is left behind however either side
dies. Pages cost memory only once touched.
"""

from __future__ import annotations

import contextlib
import mmap
import os

#: Room for a preview beside the map: 640 x 640 pixels of pure colour noise, the worst, make a JPEG of 274,089 bytes.
PREVIEW_BYTES = 1024 * 1024
#: MADV_POPULATE_WRITE of <linux/mman.h>, since Linux 5.14.
_POPULATE_WRITE = 23
#: One byte is used: a store of one byte is there or is not, at whatever instruction a process dies.
_FLAG_BYTES = 64


def answer_bytes(map_shape: tuple[int, int], *, preview: bool) -> int:
    """Return the room one answer needs: a 16-bit map, raw or as a PNG that did not compress at all, and a preview."""
    height, width = map_shape
    return height * width * 2 + height * 8 + 65536 + (PREVIEW_BYTES if preview else 0)


class Slots:
    """``count`` slots of ``frame_bytes`` + ``answer_bytes``, as memory views on both sides, and a flag behind them."""

    def __init__(self, fd: int, count: int, frame_bytes: int, answer_bytes: int) -> None:
        self.fd = fd
        self.count = count
        # 64: a cache line, so that two slots never share one and numpy views are aligned.
        self.frame_bytes = -(-frame_bytes // 64) * 64
        self.answer_bytes = -(-answer_bytes // 64) * 64
        self._stride = self.frame_bytes + self.answer_bytes
        self._memory = mmap.mmap(fd, self.count * self._stride + _FLAG_BYTES)
        self._view = memoryview(self._memory)

    @classmethod
    def create(cls, count: int, frame_bytes: int, answer_bytes: int) -> Slots:
        """Reserve the memory (host side). Raises ``OSError`` where there is none, or no descriptor for it."""
        fd = os.memfd_create("edgead-slots")
        try:
            os.ftruncate(fd, count * (-(-frame_bytes // 64) * 64 + -(-answer_bytes // 64) * 64) + _FLAG_BYTES)
            return cls(fd, count, frame_bytes, answer_bytes)
        except BaseException:
            os.close(fd)
            raise

    def touch(self, count: int, frame_bytes: int) -> None:
        """Have the memory of the first ``count`` slots at hand, for frames of ``frame_bytes``; what lies there stays.

        Five megapixels into pages never touched take 3.5 ms, then 0.25: a part, and all other cameras, waited for it.
        No more than a frame needs: a room is as large as the station's largest frame may be, each lane has its own, and
        the host finds the pages while it inspects.
        """
        for slot in range(min(count, self.count)):
            start = slot * self._stride
            answer = start + self.frame_bytes
            for begin, end in ((start, min(start + frame_bytes, answer)), (answer, start + self._stride)):
                page = begin - begin % mmap.PAGESIZE
                with contextlib.suppress(OSError):  # an older kernel, or no memory: the first frames find out
                    self._memory.madvise(_POPULATE_WRITE, page, end - page)

    @property
    def begun(self) -> bool:
        """Whether the worker is, or was when it died, at a frame that lies here: from before it looks at it on."""
        return self._view[self.count * self._stride] != 0

    @begun.setter
    def begun(self, begun: bool) -> None:
        self._view[self.count * self._stride] = begun

    def frame(self, slot: int, size: int) -> memoryview:
        """Return the first ``size`` bytes of the slot's frame room."""
        return self._room(slot, 0, size, self.frame_bytes)

    def answer(self, slot: int, size: int) -> memoryview:
        """Return the first ``size`` bytes of the slot's answer room (map, then preview)."""
        return self._room(slot, self.frame_bytes, size, self.answer_bytes)

    def _room(self, slot: int, offset: int, size: int, most: int) -> memoryview:
        # Slots and sizes come over the link: a wrong one must not reach into another frame.
        if not (0 <= slot < self.count and 0 <= size <= most):
            raise ValueError(f"expected a slot below {self.count} and 0..{most} bytes, found slot {slot}, {size} bytes")
        start = slot * self._stride + offset
        return self._view[start : start + size]

    def close(self) -> None:
        """Unmap and close. Views handed out before must no longer be used."""
        self._view.release()
        with contextlib.suppress(BufferError):  # a numpy view is still alive; the memory goes with the process
            self._memory.close()
        os.close(self.fd)
