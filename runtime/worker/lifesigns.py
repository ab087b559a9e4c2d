"""Signs of life between one frame and the next: a live camera's pixels and a living engine's map never repeat.

A camera that froze, or a driver that hands out its old buffers in a ring, goes on answering every trigger; so does an
engine whose kernels no longer run. Both look like good parts for ever. Sensor noise makes it impossible that all
sampled pixels of two exposures agree, and two different frames do not give the same map bit for bit.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

#: Frames looked back at: more than a camera driver has buffers to go round in.
MEMORY = 32
#: Name of a frame: (session, frame_id). One sent again after a lost connection keeps its name and is no repeat.
FrameName = tuple[int, int]
#: What two samples (``runtime.worker.exposure``) share only if shape and pixels are the same.
Fingerprint = tuple[tuple[int, ...], bytes]


def fingerprint(sample: np.ndarray) -> Fingerprint:
    """Return shape and pixels as they are: a hash of them takes longer than comparing the 3 KB there are at most."""
    return sample.shape, sample.tobytes()


class CameraSigns:
    """What one camera showed last.

    ``repeat_limit``: this many frames in a row with pixels already seen among the last ``MEMORY`` are a frozen camera,
    the first of them included; None: never.
    """

    def __init__(self, repeat_limit: int | None) -> None:
        self._repeat_limit = repeat_limit
        self._seen: OrderedDict[Fingerprint, FrameName] = OrderedDict()
        self._run = 1

    def frozen(self, mark: Fingerprint, name: FrameName) -> str | None:
        """Note a live frame by its fingerprint and name; say so if the camera shows the same again and again."""
        earlier = self._seen.get(mark)
        if earlier is None:
            self._run = 1
        elif earlier != name:
            self._run += 1
        self._seen[mark] = name
        self._seen.move_to_end(mark)
        if len(self._seen) > MEMORY:
            self._seen.popitem(last=False)
        if self._repeat_limit is None or self._run < self._repeat_limit:
            return None
        return (
            f"the camera repeats itself: every sampled pixel is as in frame {earlier[1] if earlier else name[1]}, for "
            f"{self._run} frames now: restart the camera, or set repeat_limit where its pictures carry no noise"
        )


class EngineSigns:
    """What one engine showed last, whatever camera it was for."""

    def __init__(self) -> None:
        self._last_map: tuple[Fingerprint, bytes] | None = None

    def dead(self, mark: Fingerprint, anomaly_map: np.ndarray) -> str | None:
        """Note the anomaly map, float [h, w], of the frame with this fingerprint; say so if no living engine made it.

        A map of one value cannot vary from place to place, so of that only the repetition counts.
        """
        values = anomaly_map.tobytes()  # a copy: an engine may write into its buffer again
        last, self._last_map = self._last_map, (mark, values)
        low = float(anomaly_map.min())
        if anomaly_map.size > 1 and low == float(anomaly_map.max()):
            return f"expected a map that varies from place to place, found {low:g} everywhere: is the engine dead?"
        if last is not None and last[0] != mark and last[1] == values:
            return "expected another map for another frame, found that of the frame before, bit for bit"
        return None
