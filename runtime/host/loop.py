"""The station's host process: takes frames, hands them to lanes, publishes one inspection each. Never imports torch.

One thread, one poll loop; each turn takes frames and answers, writes everything down (``runtime.host.outlet``), sends
results and receipts, then takes every step of a deadline, a restart or a swap that is due, with what comes of it. What
would hold the loop up is done beside it (``runtime.errands``). Its state follows from its workers'
(``runtime.lifecycle``) until SIGTERM or Ctrl-C makes it STOPPING: then it drains, frames already taken in are still
inspected up to their deadlines and new ones are answered NotDecidable, stopping. It tells systemd how it is
(``runtime.host.notify``).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from runtime.changing.changeover import Changeover
from runtime.changing.chosen import Chosen
from runtime.changing.post import Answers
from runtime.changing.route import Routes
from runtime.changing.wanted import active_templates
from runtime.delivery.maps import stored_maps
from runtime.delivery.server import Deliveries
from runtime.errands import Errands
from runtime.garbage import settle
from runtime.host.control import Control
from runtime.host.intake import Intake
from runtime.host.ledger_records import LedgerRecords
from runtime.host.notify import Notifier
from runtime.host.outlet import Outlet
from runtime.host.sockets import Sockets, send
from runtime.host.wake import Call, Wake
from runtime.lane.assignment import assignments
from runtime.lane.lane import Lane
from runtime.lane.supervisor import STOP_S
from runtime.ledger import Outbox
from runtime.lifecycle import State
from runtime.station.config import Station
from runtime.store import Store

log = logging.getLogger("edgead.host")

#: How long a drained host still answers what had been sent to it: a camera that never pauses must not keep it alive.
LAST_FRAMES_S = 1.0
#: How long a stopped host waits for libzmq to hand out its last results.
LINGER_MS = 1000


class Host:
    """One station. ``run`` returns when a signal or ``stop`` ended it and everything is answered."""

    def __init__(self, station: Station, builtins: tuple[str, ...], path: Path | None = None) -> None:
        """Open the store and check every camera's template; raises ``TemplateError`` if one is missing or damaged.

        ``path``: the station file, read again when it is to be applied; None: it never is.
        """
        self.station = station
        self.run_id = secrets.token_hex(8)
        templates = active_templates(Store(station.store), station)
        self.routes = Routes(assignments(station, templates, builtins).values())
        #: Returns the publishers' part of the status; whoever starts them sets it.
        self.publishers: Callable[[], dict[str, Any]] = dict
        self.outlet = Outlet(station.station, self.run_id)
        self.intake = Intake(self.routes, self.outlet, max_frame_bytes=station.max_frame_bytes)
        self.outlet.answered = self.intake.answered
        self._wake = Wake()
        # Two: a recipe is picked at once, even while a large bank is being proven.
        self._errands, self._quick_errands = (Errands(lambda: self._wake.call(Call.ERRAND)) for _ in range(2))
        self.changeover = Changeover(station, path, builtins, self.routes, self._errands)
        self._started_ns = time.monotonic_ns()
        self._notifier = Notifier()

    @property
    def state(self) -> State:
        """Where the station is in its life."""
        return State.STOPPING if self.outlet.is_stopping else self.routes.state

    @property
    def lanes(self) -> dict[str, Lane]:
        """The lane on duty of every camera, for frames that name no recipe."""
        return {name: route.lane for name, route in self.routes.by_camera.items()}

    def stop(self) -> None:
        """Ask ``run`` to drain and return; safe from a signal handler or another thread."""
        self._wake.call(Call.STOP)

    def run(self) -> None:
        """Bind, open the ledger, serve until stopped, drain, release everything.

        Raises ``StationError`` for an address that cannot be bound, ``LedgerError`` for a ledger that cannot be used.
        """
        context = zmq.Context()
        sockets: Sockets | None = None
        self._notifier = Notifier.from_environment()
        with self._wake.signals() as is_own_process:
            try:
                self._sockets = sockets = Sockets(context, self.station, self._largest_answer())
                self.outlet.open(sockets)
                self._open_records()
                self.intake.open(sockets.frame_messages.receive, self.outlet.records)
                if is_own_process:
                    settle()
                self._serve()
            finally:
                self._close(context, sockets)

    def _open_records(self) -> None:
        """Take up the ledger, and answer what an earlier run that was killed left open."""
        settings = self.station.ledger
        if settings is not None:
            self.outlet.records = records = LedgerRecords(settings, self.station.station, self.run_id)
        self._chosen = Chosen(self.routes, settings, self._quick_errands)
        self._control = Control(self.status, self.changeover, self._chosen)
        if settings is None:
            return
        records.note_in_use(self.routes.on_duty())
        self.outlet.answer_lost(records, self.lanes)
        if self._sockets.deliveries is not None:
            maps = stored_maps(settings.file, settings.evidence_folder)
            self.outlet.deliveries = Deliveries(self._sockets.deliveries, Outbox(records.ledger), evidence=maps)
        self._end_turn()

    def _close(self, context: zmq.Context[zmq.Socket[bytes]], sockets: Sockets | None) -> None:
        """End every worker, write and send what is left, release everything."""
        self.outlet.is_stopping = True
        lanes, now_ns = self.routes.living(), time.monotonic_ns()
        for lane in lanes:
            lane.worker.dismiss()
        try:
            if sockets is not None:
                self.intake.close(now_ns)
            give_up = time.monotonic() + STOP_S  # of all together: they were asked at once
            for lane in lanes:  # empty-handed after a drain; not if the loop raised
                patience_s = max(0.0, give_up - time.monotonic())
                self.outlet.take_answers(lane, lane.stop(time.monotonic_ns(), patience_s))
            for lane in self.routes.take_ended():
                lane.release()
            for errands in (self._errands, self._quick_errands):
                errands.close()
            self._end_turn()
        finally:
            deliveries, self.outlet.deliveries = self.outlet.deliveries, None  # no status may read a closed ledger
            if deliveries is not None:
                deliveries.close()
            self.outlet.records.close()
            context.destroy(linger=LINGER_MS)
            if sockets:
                sockets.unlink()
            self._wake.close()
            self._notifier.close()

    # --- the loop -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        poller = zmq.Poller()
        sockets = self._sockets
        for sock in sockets.bound.values():
            poller.register(sock, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        watched: dict[int, Lane] = {}
        self._advance()
        log.info("station %s: frames %s, results %s", self.station.station, self.station.frames, self.station.results)
        while not (self.outlet.is_stopping and self._idle()):
            self._watch_workers(poller, watched)
            ready = dict(poller.poll(self._timeout_ms()))
            if self._wake.fileno() in ready:
                self._heed(self._wake.take())
            if sockets.frames in ready:
                self.intake.take_frames()
            self._take_answers([lane for fd, lane in watched.items() if fd in ready])
            self._advance()
            self._end_turn()
            self._notifier.turn(time.monotonic_ns(), self._outlook)
            if sockets.results in ready:
                self.outlet.take_subscriptions()
            if sockets.status in ready:
                self._take_question()
            self.outlet.records.clean(time.monotonic_ns(), quiet=not ready)
        give_up = time.monotonic() + LAST_FRAMES_S
        while self.intake.take_frames() and time.monotonic() < give_up:
            self._end_turn()  # what cameras had already sent is answered too, not left in the socket

    def _heed(self, calls: set[Call]) -> None:
        """Do what was asked for by a signal or an errand."""
        for errands in (self._errands, self._quick_errands):
            errands.take()
        if Call.STOP in calls and self.outlet.is_stopping:
            log.info("station %s: draining already, frames in hand are answered first", self.station.station)
        elif Call.STOP in calls:
            self.outlet.is_stopping = True
            self._publish(self.changeover.stop(time.monotonic_ns()))
            self._notifier.stopping()
            log.info("station %s: draining", self.station.station)
        if Call.APPLY in calls and not self.outlet.is_stopping:
            self.changeover.hang_up()

    def _largest_answer(self) -> int:
        return max(lane.answer_bytes for lane in self.routes.living())

    def _idle(self) -> bool:
        return self.intake.waiting == 0 and all(lane.pipeline.unanswered == 0 for lane in self.routes.living())

    def _take_answers(self, lanes: list[Lane]) -> None:
        """Take what workers have said, and send it at once: an answer need not wait for what else is due."""
        for lane in lanes:
            self.outlet.take_answers(lane, lane.read_worker(time.monotonic_ns()))
            lane.dispatch(time.monotonic_ns())  # before the disk has its turn: the worker need not wait for it
        if self.outlet.waits:
            self._end_turn()

    def _advance(self) -> None:
        now_ns = time.monotonic_ns()
        for lane in self.routes.living():
            self.outlet.take_answers(lane, lane.advance(now_ns))
        self.intake.advance(now_ns)
        self._publish(self.routes.turn(now_ns))
        self._publish(self.changeover.turn(now_ns))
        for lane in self.routes.take_ended():
            self._errands.run(lane.release, lambda _: None)

    def _publish(self, answers: Answers) -> None:
        for lane, answer in answers:
            self.outlet.take_answer(lane, answer)

    def _end_turn(self) -> None:
        self.outlet.end_turn(self.routes.take_news())

    def _timeout_ms(self) -> int:
        """Time until the next deadline, restart or sign of life, in milliseconds, rounded up; at most one second."""
        asked = [self.routes.next_due_ns(time.monotonic_ns()), self.outlet.records.next_due_ns()]
        asked += [self.intake.next_due_ns(), self._notifier.next_due_ns()]
        if self.outlet.deliveries is not None:
            asked.append(self.outlet.deliveries.next_due_ns())
        due = [at for at in asked if at is not None]
        if not due:
            return 1000
        return min(1000, max(0, -(-(min(due) - time.monotonic_ns()) // 1_000_000)))

    def _watch_workers(self, poller: zmq.Poller, watched: dict[int, Lane]) -> None:
        """Keep the poller in step with the workers that live now."""
        current = {lane.worker.link.fileno(): lane for lane in self.routes.living() if lane.worker.link is not None}
        if current == watched:  # lanes too: two workers that died together may come back with their numbers swapped
            return
        for fd in watched.keys() - current.keys():
            poller.unregister(fd)
        for fd in current.keys() - watched.keys():
            poller.register(fd, zmq.POLLIN)
        watched.clear()
        watched.update(current)
        self._sockets.limit_results(self._largest_answer())  # another template may have smaller maps

    # --- status and requests ------------------------------------------------------------------------------------

    def _take_question(self) -> None:
        message = self._sockets.status_messages.receive()
        if message is None:
            return
        identity, *request = (part.bytes for part in message)
        if len(request) > 1 and request[0] == b"":  # what a REQ puts before its question

            def answer(found: dict[str, Any]) -> None:
                send(self._sockets.status, [identity, b"", json.dumps(found).encode()])

            self._control.handle(request[1], answer)

    def _outlook(self) -> tuple[State, str]:
        """Return state and one line for the service manager: which cameras are not inspected, and why."""
        state, lanes = self.state, self.routes.on_duty()
        trouble = [
            f"{lane.assignment.label} {lane.worker.state} ({lane.worker.last_error or 'loading'})"
            for lane in lanes
            if lane.worker.state is not State.READY
        ]
        return state, f"{state}: {'; '.join(trouble) or f'{len(lanes)} of {len(lanes)} cameras are inspected'}"

    def status(self) -> dict[str, Any]:
        """Return what `edgead status --json` prints."""
        cameras = {name: route.status() | self.intake.status(name) for name, route in self.routes.by_camera.items()}
        state, outlet = self.state, self.outlet
        return {
            "station": self.station.station,
            "state": state.value,
            "ready": state is State.READY,
            "run_id": self.run_id,
            "pid": os.getpid(),
            "uptime_s": round((time.monotonic_ns() - self._started_ns) / 1e9, 3),
            "frames_address": self.station.frames,
            "results_address": self.station.results,
            "subscriptions": outlet.subscribers,
            "frames": sum(camera["frames"] for camera in cameras.values()),
            "inspections": sum(camera["inspections"] for camera in cameras.values()),
            "refused": dict(self.intake.refused),
            "ledger": outlet.records.status(),
            "deliveries": outlet.deliveries.status() if outlet.deliveries is not None else None,
            "publishers": self.publishers(),
            "cameras": cameras,
            "station_file": self.changeover.file,
            "applies": [each.status() for each in self.changeover.applies],
            "swaps": [each.status() for each in self.changeover.swaps],
        }
