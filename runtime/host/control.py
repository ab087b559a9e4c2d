"""What a running host can be asked by its status socket: one JSON object in, one out.

A request is ``{"op": WORD, ...}``; anything else is answered with the status, as `edgead status` asks for it. Answers
hold ``ok``; where that is false, ``error`` says why and nothing was done.

    {"op": "status"}                                      the status
    {"op": "plan", "file": PATH}                          ok, "plan": what the station file would change
    {"op": "apply", "file": PATH, "who": .., "why": ..}   ok, "id": the station file is read again; what comes of it is
                                                          in the status, ``applies`` and ``swaps``
    {"op": "recipe", "recipe": ID, "camera": NAME|null}   ok, "cameras": picked and written down

``file`` may be left out; it must be the one the host was started with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from runtime.changing.changeover import Changeover
from runtime.changing.chosen import Chosen
from runtime.errors import EdgeadError, StationError

#: Largest request in bytes, below what the socket itself lets through.
MAX_REQUEST_BYTES = 4 * 1024
#: Longest text in a request, in characters: a path, a reason.
MAX_TEXT = 1000
Answer = Callable[[dict[str, Any]], None]


class Control:
    """Answers requests of one host. ``status``: returns the status."""

    def __init__(self, status: Callable[[], dict[str, Any]], changeover: Changeover, chosen: Chosen) -> None:
        self._status = status
        self._changeover = changeover
        self._chosen = chosen
        self._ops: dict[str, Callable[[dict[str, Any], Answer], None]] = {
            "status": lambda _, answer: answer(self._status()),
            "plan": self._plan,
            "apply": self._apply,
            "recipe": self._recipe,
        }

    def handle(self, question: bytes, answer: Answer) -> None:
        """Answer one question, now or when it is done."""
        if not question.startswith(b"{"):
            answer(self._status())
            return
        try:
            request = read_request(question)
            op = self._ops.get(str(request.get("op")))
            if op is None:
                raise StationError(f"expected an op of {', '.join(self._ops)}, found {str(request.get('op'))[:40]!r}")
            op(request, answer)
        except EdgeadError as error:
            answer({"ok": False, "error": str(error)})

    def _plan(self, request: dict[str, Any], answer: Answer) -> None:
        self._changeover.plan(_texts(request, "file")["file"], answer)

    def _apply(self, request: dict[str, Any], answer: Answer) -> None:
        texts = _texts(request, "file", "who", "why")
        apply = self._changeover.apply(texts["who"] or "somebody", texts["why"] or "", texts["file"])
        answer({"ok": True, "id": apply.id})

    def _recipe(self, request: dict[str, Any], answer: Answer) -> None:
        texts = _texts(request, "recipe", "camera")
        if texts["recipe"] is None:
            raise StationError("expected a recipe, found none")
        self._chosen.pick(texts["recipe"], texts["camera"], answer)


def read_request(question: bytes) -> dict[str, Any]:
    """Return the JSON object a request is. Raises ``StationError`` for anything else, or one that is too long."""
    if len(question) > MAX_REQUEST_BYTES:
        raise StationError(f"expected a request of at most {MAX_REQUEST_BYTES} bytes, found {len(question)}")
    try:
        request: Any = json.loads(question)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise StationError(f"expected a JSON object, found {question[:40]!r}") from error
    if not isinstance(request, dict):
        raise StationError(f"expected a JSON object, found {question[:40]!r}")
    return request


def _texts(request: dict[str, Any], *known: str) -> dict[str, str | None]:
    """Return the texts a request may bring, None for one left out; a misspelt key is not taken for one of those."""
    unknown = sorted(request.keys() - {"op", *known})
    if unknown:
        raise StationError(f"{request['op']}: expected keys of {', '.join(known)}, found {', '.join(unknown)[:80]}")
    texts = {key: request.get(key) for key in known}
    for key, value in texts.items():
        if value is not None and (type(value) is not str or len(value) > MAX_TEXT):
            raise StationError(
                f"{request['op']}: expected {key} as text of at most {MAX_TEXT}, found {str(value)[:40]!r}"
            )
    return texts
