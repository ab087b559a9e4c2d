"""The cameras of a running station: which lane a frame goes to, and every lane there is.

A ``Route`` is one camera, a ``Post`` on it one of its recipes. Lanes come and go under them with every swap: look the
lane up anew for every frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from runtime.changing.post import Answers, Post
from runtime.lane.assignment import Assignment
from runtime.lane.lane import Lane
from runtime.lane.tally import Tally
from runtime.lane.workers import Workers
from runtime.ledger import Event
from runtime.lifecycle import State, station_state
from runtime.station.config import Camera, Recipe, Station

Key = tuple[str, str]
#: Stands for the current recipe where nobody knows it any more: no recipe can be called so.
UNKNOWN = "?"
_COUNTED = ("frames", "inspections", "ok", "not_ok", "not_decidable")


class Route:
    """One camera. ``posts`` by recipe, "" for the product and detector the camera itself names.

    ``current``: recipe of frames that name none; None: not known any more, nobody may guess (see
    ``runtime.changing.chosen``).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.tally = Tally()
        self.posts: dict[str, Post] = {}
        self.current: str | None = ""

    @property
    def lane(self) -> Lane:
        """The lane on duty for frames that name no recipe; the camera's own where it is not known which."""
        return self.posts["" if self.current is None else self.current].lane

    def camera(self) -> Camera:
        """Return the settings that run now."""
        recipes = {
            name: Recipe(product=post.lane.camera.product, detector=post.lane.camera.detector)
            for name, post in self.posts.items()
            if name
        }
        return self.posts[""].lane.camera.model_copy(update={"recipes": recipes})

    def status(self) -> dict[str, Any]:
        """Return the camera's part of `edgead status --json`: the lane on duty, and sums over all lanes."""
        status = self.lane.status()
        lanes = [lane for post in self.posts.values() for lane in post.lanes()]
        for key in self.lane.own_counts():
            status[key] = self.tally.past[key] + sum(lane.own_counts()[key] for lane in lanes)
        status["restarts"] = self.tally.restarts  # lanes that share a worker heard of the same death
        status["waiting"] = sum(lane.pipeline.waiting for lane in lanes)
        status["unanswered"] = sum(lane.pipeline.unanswered for lane in lanes)
        status |= {key: self.tally.counts[key] for key in _COUNTED}
        status["errors"] = dict(self.tally.errors)
        if len(self.posts) > 1:
            status["recipe"] = self.current
            status["recipes"] = {name: post.lane.status() for name, post in self.posts.items()}
        return status


class Routes:
    """Every camera of the station, and the posts that are being given up."""

    def __init__(self, assignments: Iterable[Assignment]) -> None:
        self.by_camera: dict[str, Route] = {}
        self.closing: list[tuple[Route, Post]] = []
        self._workers = Workers()
        for each in assignments:
            self.add(each)

    def add(self, assignment: Assignment) -> None:
        """Set up a post of a camera; its worker starts with the next turn. ``OSError``: no shared memory for it."""
        route = self.by_camera.get(assignment.name) or Route(assignment.name)
        # May raise: then there is no camera without post.
        route.posts[assignment.recipe] = Post(assignment, route.tally, self._workers)
        self.by_camera[assignment.name] = route

    def remove(self, key: Key, now_ns: int) -> Answers:
        """Give a post up, and its camera with its last post. Returns what is to be answered now."""
        route = self.by_camera[key[0]]
        post = route.posts.pop(key[1])
        self.closing.append((route, post))
        if not route.posts:
            del self.by_camera[key[0]]
        return post.close("it was taken out of the station file", now_ns)

    # --- where frames go ----------------------------------------------------------------------------------------

    def cameras(self) -> list[str]:
        """Return the cameras' names."""
        return [*self.by_camera]

    def recipes(self, camera: str) -> list[str]:
        """Return the recipes of a known camera, without its own product."""
        return [recipe for recipe in self.by_camera[camera].posts if recipe]

    def recipe_now(self, camera: str) -> str:
        """Return the recipe of frames that name none, "" for the camera's own product; ``UNKNOWN`` is no recipe."""
        current = self.by_camera[camera].current
        return UNKNOWN if current is None else current

    def lane(self, camera: str, recipe: str) -> Lane | None:
        """Return the lane on duty for a recipe of a known camera, "" for its own product; None if it has none such."""
        post = self.by_camera[camera].posts.get(recipe)
        return None if post is None else post.lane

    # --- all of them --------------------------------------------------------------------------------------------

    def posts(self) -> Iterator[Post]:
        """Every post, those being given up too."""
        for route in self.by_camera.values():
            yield from route.posts.values()
        for _, post in self.closing:
            yield post

    def living(self) -> list[Lane]:
        """Every lane that has, or may have, frames or a worker."""
        return [lane for post in self.posts() for lane in post.lanes()]

    def on_duty(self) -> list[Lane]:
        """Return the lanes that take frames."""
        return [post.lane for route in self.by_camera.values() for post in route.posts.values()]

    def post(self, key: Key) -> Post | None:
        """Return the post of a camera and recipe, None if there is none."""
        route = self.by_camera.get(key[0])
        return None if route is None else route.posts.get(key[1])

    @property
    def state(self) -> State:
        """The state of a station with these cameras that was not asked to end."""
        return station_state([lane.worker.state for lane in self.on_duty()])

    def turn(self, now_ns: int) -> Answers:
        """Take every step of every swap that is due."""
        answers = [each for post in self.posts() for each in post.turn(now_ns)]
        self.closing = [(route, post) for route, post in self.closing if not (post.is_gone and not post.ended)]
        return answers

    def next_due_ns(self, now_ns: int) -> int | None:
        """Return when something is due in a lane or a swap, or None."""
        due = [lane.next_due_ns() for lane in self.living()] + [post.next_due_ns(now_ns) for post in self.posts()]
        return min((at for at in due if at is not None), default=None)

    def take_ended(self) -> list[Lane]:
        """Return the lanes whose worker is gone and whose memory is to be given back, and forget them."""
        ended = [lane for post in self.posts() for lane in post.ended]
        for post in self.posts():
            post.ended.clear()
        return ended

    def note(self, camera: str, event: Event, detail: dict[str, Any]) -> None:
        """Have something recorded that happened to a camera."""
        route = self.by_camera.get(camera)
        if route is not None:
            route.tally.news.append((event, detail))

    def take_news(self) -> list[tuple[Event, dict[str, Any]]]:
        """Return what happened beside the inspections since the last call."""
        news: list[tuple[Event, dict[str, Any]]] = []
        for route in (*self.by_camera.values(), *(route for route, _ in self.closing)):
            if route.tally.news:
                news += route.tally.news
                route.tally.news.clear()
        return news

    def station(self, station: Station) -> Station:
        """Return ``station`` with the cameras that run now."""
        cameras = {name: route.camera() for name, route in self.by_camera.items()}
        return station.model_copy(update={"cameras": cameras})
