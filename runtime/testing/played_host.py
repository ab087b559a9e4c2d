"""A host that only talks: it answers plan, apply and recipe as a real one does, and swaps end as its script says.

For commands that ask a host; what a real one does with workers is tested with a real one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import zmq

from runtime.errors import EdgeadError
from runtime.station.changes import LaneKey, lanes_of, plan_changes
from runtime.station.config import Station, load_station
from runtime.store import Store


class PlayedHost:
    """Answers at ``address`` as the host of the station file at ``path``, until the block ends.

    ``script``: the states every swap goes through, one more with every time the status is asked; ``why``: said with the
    last of them. ``fate``: state of the request itself. ``asked``: every request it got.
    """

    def __init__(
        self, path: Path, script: Sequence[str] = ("preparing", "active"), *, why: str = "", fate: str = "accepted"
    ) -> None:
        self.path = path
        self.script, self.why, self.fate = tuple(script), why, fate
        self.run_id = "r1"
        self.asked: list[dict[str, Any]] = []
        self.station = load_station(path)
        self.address = self.station.status
        self.templates = _active(self.station)
        self.current = dict.fromkeys(self.station.cameras, "")
        self._apply: dict[str, Any] | None = None
        self._swaps: list[dict[str, Any]] = []
        self._wanted = self.station, self.templates
        self._thread = threading.Thread(target=self._serve)
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        sock = context.socket(zmq.REP)
        sock.bind(self.address)
        while not self._stop.is_set():
            if sock.poll(20):
                question = sock.recv()
                sock.send(json.dumps(self._answer(question)).encode())
        context.destroy(linger=0)

    def _answer(self, question: bytes) -> dict[str, Any]:
        if not question.startswith(b"{"):
            return self._status()
        request = json.loads(question)
        self.asked.append(request)
        try:
            return {"ok": True} | {"plan": self._plan, "apply": self._begin, "recipe": self._recipe}[request["op"]](
                request
            )
        except EdgeadError as error:
            return {"ok": False, "error": str(error)}

    def _plan(self, _: dict[str, Any]) -> dict[str, Any]:
        station = load_station(self.path)
        self._wanted = station, _active(station)
        return {"plan": plan_changes(self.station, station, self.templates, self._wanted[1]).as_json()}

    def _begin(self, request: dict[str, Any]) -> dict[str, Any]:
        plan = self._plan(request)["plan"]
        self._swaps = [
            {"id": f"s{number}", "apply": "a1", "camera": camera, "recipe": recipe, "why": "", "step": -1}
            | {"from": self._work(self.station, self.templates, (camera, recipe))}
            | {"to": self._work(*self._wanted, (camera, recipe))}
            for number, (camera, recipe) in enumerate(plan["swapped"], 2)
        ]  # fmt: skip
        why = self.why if self.fate == "refused" else ""
        swaps = [] if why else [swap["id"] for swap in self._swaps]
        self._apply = {"id": "a1", "state": self.fate, "why": why, "swaps": swaps}
        return {"id": "a1"}

    def _work(self, station: Station, templates: dict[LaneKey, str], lane: LaneKey) -> dict[str, str]:
        product, detector = lanes_of(station)[lane]
        return {"product": product, "detector": detector, "detector_version": "1", "template": templates[lane]}

    def _recipe(self, request: dict[str, Any]) -> dict[str, Any]:
        having = [name for name, each in self.station.cameras.items() if request["recipe"] in ("", *each.recipes)]
        self.current |= dict.fromkeys(having, request["recipe"])
        return {"cameras": having, "recipe": request["recipe"]}

    def _status(self) -> dict[str, Any]:
        for swap in self._swaps:
            swap["step"] = min(swap["step"] + 1, len(self.script) - 1)
            swap["state"] = self.script[swap["step"]]
            swap["why"] = self.why if swap["step"] == len(self.script) - 1 else ""
        cameras = {
            name: {
                "recipe": self.current[name],
                "recipes": {
                    recipe: {"worker": "ready", **self._work(self.station, self.templates, (name, recipe))}
                    for recipe in (("", *camera.recipes) if camera.recipes else ())
                },
            }
            for name, camera in self.station.cameras.items()
        }
        return {
            "station": self.station.station, "state": "ready", "ready": True, "run_id": self.run_id, "cameras": cameras,
            "applies": [self._apply] if self._apply else [], "swaps": self._swaps,
        }  # fmt: skip


def _active(station: Station) -> dict[LaneKey, str]:
    store = Store(station.store)
    return {lane: store.active(product, detector).digest for lane, (product, detector) in lanes_of(station).items()}
