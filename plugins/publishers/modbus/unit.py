"""One camera behind one unit id: fills the image from what is shown, hands the PLC's words to the handshake."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgead import ConfigError, Delivered, EdgeadError, ErrorWord, Feed, PublisherContext, Pulse, result_values
from plugins.publishers.modbus.handshake import Handshake, Shown
from plugins.publishers.modbus.image import CONTROL_WORDS, LAYOUT_VERSION, Status, pack_result, read_command

if TYPE_CHECKING:
    from plugins.publishers.modbus.publisher import ModbusOptions

_EMPTY = (0,) * 40


class Unit:
    """The registers of one camera. Used by the server's event loop but for ``is_stale`` and ``figures``."""

    def __init__(  # noqa: PLR0917 - its collaborators
        self,
        camera: str,
        number: int,
        options: ModbusOptions,
        context: PublisherContext,
        feed: Feed,
        done: queue.SimpleQueue[tuple[Unit, Delivered]],
    ) -> None:
        """Take up what an earlier process kept; ``done`` takes results to be remembered as handed over."""
        self.camera, self.number = camera, number
        self.control = [0] * CONTROL_WORDS
        self.commands = self.stale = 0
        self.last_refusal = ""
        self._options, self._context, self._feed, self._done = options, context, feed, done
        self._recipes = numbers_of(options.recipes, context.cameras[camera])
        self._ids = {number: recipe for recipe, number in self._recipes.items()}
        self._file = context.folder / f"unit-{number}.json"
        self._displayed: Shown | None = None
        self._kept = b""
        self.handshake = Handshake(self, buffer=options.buffer, memory=self._memory(), is_done=feed.is_done)

    def begin(self) -> None:
        """Go on where an earlier process ended."""
        with contextlib.suppress(EdgeadError):  # the station's frame socket takes no more: the PLC sees BUSY
            self.handshake.begin()

    # --- results in (any thread's, through the loop) ------------------------------------------------------------

    def is_stale(self, delivered: Delivered) -> bool:
        """Tell whether a result from the record is too old to be shown as the newest."""
        if not delivered.historical or self.handshake.buffers or self.handshake.awaits(delivered.inspection.trigger_id):
            return False
        old = time.time_ns() - delivered.inspection.published_ns > self._options.stale_s * 1e9
        self.stale += old
        return old

    def offer(self, delivered: Delivered) -> None:
        """Show a result, or queue it to be shown."""
        values = result_values(delivered.inspection, historical=delivered.historical)
        result = Shown(
            image=tuple(pack_result(values, self._recipes)),
            result_id=delivered.inspection.result_id,
            seq=delivered.seq,
            trigger_id=delivered.inspection.trigger_id,
            verdict=int(delivered.inspection.verdict),
            historical=delivered.historical,
            simulated=delivered.inspection.simulated,
            token=delivered,
        )
        if self._options.handshake:
            self.handshake.offer(result)
        else:
            self._displayed = result
            self.settle(delivered)

    # --- what the handshake asks for ----------------------------------------------------------------------------

    def settle(self, token: Any) -> None:
        """Have a result remembered by the main thread, which owns the feed."""
        self._done.put((self, token))

    def trigger(self, trigger_id: int, part_id: str, recipe_id: int, raised_ns: int) -> None:
        """Raise a trigger; ``ConfigError`` for a recipe number without recipe."""
        if recipe_id and recipe_id not in self._ids:
            raise ConfigError(f"expected a recipe number of {sorted(self._ids)} or 0, found {recipe_id}")
        self._context.line.trigger(self.camera, trigger_id, part_id, self._ids.get(recipe_id, ""), raised_ns)

    def recipe(self, recipe_id: int) -> None:
        """Change the current recipe, in a thread: the station takes its time; ``ConfigError`` for an unknown number."""
        if recipe_id and recipe_id not in self._ids:
            raise ConfigError(f"expected a recipe number of {sorted(self._ids)} or 0, found {recipe_id}")
        import asyncio

        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                self._context.line.select_recipe(self.camera, self._ids.get(recipe_id, ""))
                refused = False
            except EdgeadError as error:
                refused, self.last_refusal = True, str(error)
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(lambda: self.handshake.recipe_done(refused=refused))

        threading.Thread(target=work, name="recipe", daemon=True).start()

    def keep(self, record: Mapping[str, Any]) -> None:
        """Store the handshake's record: renamed into place, so that a kill leaves the old one or the new one."""
        data = json.dumps(record).encode()
        if data == self._kept:
            return
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_bytes(data)
        unfinished.replace(self._file)
        self._kept = data

    def _memory(self) -> dict[str, Any]:
        try:
            self._kept = self._file.read_bytes()
            memory = json.loads(self._kept)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self._file}: expected what the handshake kept, cannot be read: {error}; remove it, with every "
                "part off the line: what it knew of acknowledgements is lost then"
            ) from error
        return memory if isinstance(memory, dict) else {}

    # --- registers ----------------------------------------------------------------------------------------------

    def write(self, at: int, words: list[int]) -> None:
        """Take words the PLC wrote, ``at``: offset from the first control register."""
        self.control[at : at + len(words)] = words
        self.commands += 1
        self._look()
        self.handshake.command(read_command(self.control), time.time_ns())

    def image(self) -> list[int]:
        """Return the 40 registers as they are now."""
        pulse = self._look()
        shown = self.handshake.shown if self._options.handshake else self._displayed
        words = list(shown.image if shown is not None else _EMPTY)
        status = self.handshake.status() if self._options.handshake else self._display_status()
        if shown is None:
            words[3] = self.handshake.error_code or _trouble(pulse, self.camera)
        if words[3]:
            status |= Status.ERROR
        if pulse.status.get("state") != "ready" or _ledger_trouble(pulse):
            status |= Status.WARNING
        words[0], words[1] = LAYOUT_VERSION, int(status)
        words[2] = pulse.beats & 0xFFFF
        current = str(pulse.status.get("cameras", {}).get(self.camera, {}).get("recipe", "") or "")
        words[29] = self._recipes.get(current, 0)
        words[36] = self.handshake.buffer_free
        words[37] = self._context.config_crc32 & 0xFFFF
        return words

    def _display_status(self) -> Status:
        status = Status.READY if self.handshake.ready else Status(0)
        if self._displayed is not None:
            verdicts = {1: Status.OK, 2: Status.NOK}
            status |= Status.RESULT_VALID | verdicts.get(self._displayed.verdict, Status.UNDECIDED)
        return status

    def _look(self) -> Pulse:
        pulse = self._context.line.pulse()
        worker = pulse.status.get("cameras", {}).get(self.camera, {}).get("worker")
        self.handshake.ready = pulse.alive and worker == "ready"
        return pulse

    def figures(self) -> dict[str, Any]:
        """Return what `edgead status` shows."""
        shake = self.handshake
        return {
            "unit": self.number, "commands": self.commands, "waiting": shake.waiting, "overruns": shake.overruns,
            "missed_triggers": shake.missed, "stale": self.stale,
            "last_refusal": self.last_refusal,
        }  # fmt: skip


def numbers_of(named: Mapping[int, str], recipes: tuple[str, ...]) -> dict[str, int]:
    """Return recipe id -> number; ``ConfigError`` where the options name a recipe twice."""
    numbers = {recipe: int(recipe) for recipe in recipes if recipe.isdecimal() and 0 < int(recipe) <= 0xFFFF}  # noqa: PLR2004 - a register
    numbers |= {recipe: number for number, recipe in named.items()}
    if len(set(numbers.values())) < len(numbers) or len(set(named.values())) < len(named):
        raise ConfigError(
            f"expected one number for each recipe, found {dict(named)} beside the recipes {list(recipes)}"
        )
    return numbers


def _trouble(pulse: Pulse, camera: str) -> int:
    """Return the error word's number for what keeps this camera from being inspected; 0 if nothing does."""
    if not pulse.alive:
        return ErrorWord.HOST_LOST.code
    worker = pulse.status.get("cameras", {}).get(camera, {}).get("worker")
    words = {"ready": ErrorWord.NONE, "starting": ErrorWord.DETECTOR_STARTING, "stopping": ErrorWord.STOPPING}
    return words.get(str(worker), ErrorWord.DETECTOR_CRASH).code


def _ledger_trouble(pulse: Pulse) -> bool:
    ledger = pulse.status.get("ledger")
    return isinstance(ledger, Mapping) and bool(ledger.get("trouble"))
