"""The station file: what one edgead host runs. Data only; reading it does nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runtime.station.yamlfile import load_yaml, located
from runtime.wire.header import MAX_PAYLOAD_BYTES, is_name

_ADDRESS = re.compile(r"tcp://(\*|[A-Za-z0-9.:\[\]_-]+):(?P<port>\d{1,5})|ipc://.+")
MAX_PORT = 65535
MINUTE_MS = 60_000
LONGEST_DEADLINE_MS = 600_000
#: What lies in a ledger's folder.
LEDGER_FILE = "ledger.sqlite"
EVIDENCE_FOLDER = "evidence"
_SLUG = r"^[a-z0-9][a-z0-9_.-]{0,63}$"


def _address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found["port"] or 1) <= MAX_PORT:
        raise ValueError("expected a ZeroMQ address such as tcp://127.0.0.1:5601 or ipc:///run/edgead/frames")
    return text


def _camera_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("expected 1 to 64 of A-Z a-z 0-9 _ -")
    return text


Address = Annotated[str, AfterValidator(_address)]
Name = Annotated[str, AfterValidator(_camera_name)]
Slug = Annotated[str, Field(pattern=_SLUG)]
#: Shorter than other names: that of its subscription is made from it, and it names a folder.
PublisherName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,48}$")]


#: What a device may be called.
DEVICE = r"^(cpu|cuda(:\d+)?)$"


class _Model(BaseModel):
    # strict: `preview: NO` is text in YAML 1.2 and must be refused, not taken for false; nor is "5" a number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Exposure(_Model):
    """Limits, read from 32 x 32 places of a frame, beyond which it shows nothing: NotDecidable, frame_exposure."""

    saturated: Annotated[float, Field(ge=0, le=1)] = 0.98
    """Largest share of values at 250 or more, 0..1, over all channels."""
    black: Annotated[float, Field(ge=0, le=1)] = 0.98
    """Largest share of values at 5 or less, 0..1, over all channels."""
    contrast: Annotated[int, Field(ge=0, le=255)] = 8
    """Least contrast in grey levels, between the darkest and the brightest percent."""


class Guard(_Model):
    """When a swap is taken back: what the first parts after it are compared with is the parts before it.

    A rule that is null is not applied.
    """

    parts: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Parts watched after a swap; the old worker stays loaded so long, ready to take over again."""
    undecided: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    """Largest rise of the share of NotDecidable, 0..1."""
    verdict: Annotated[float, Field(ge=0, le=1)] | None = 0.3
    """Largest change of the share of NotOK among the decided, up or down, 0..1."""
    latency: Annotated[float, Field(ge=1, le=1000)] | None = 3.0
    """A part is slow when it takes this many times the 95th percentile from before, and more than half its deadline.
    A tenth of the parts may be."""


class Recipe(_Model):
    """Another product the same camera brings, with a worker of its own that is loaded all the time."""

    product: Slug
    """Product whose active template is used."""
    detector: Slug = "hetmm"
    """Detector; its template for the product must be active in the store."""


class Camera(_Model):
    """One camera and the detector that looks at its frames, in a worker process of its own or a shared one."""

    product: Slug
    """Product whose active template is used."""
    detector: Slug = "hetmm"
    """Detector; its template for the product must be active in the store."""
    deadline_ms: Annotated[int, Field(ge=1, le=LONGEST_DEADLINE_MS)] = 1000
    """Longest time from the arrival of a frame, or of its trigger where that comes ahead, to the inspection; later is
    NotDecidable. Set it below the time to the reject gate. Where it is not given and parts_per_min is: one part's time.
    """
    queue: Annotated[int, Field(ge=1, le=256)] = 8
    """Frames that may wait for the detector, and triggers for their frames; one more of either is answered at once:
    NotDecidable, overload."""
    triggers: Literal["with_frame", "ahead"] = "with_frame"
    """Every frame is a trigger; or triggers come ahead, as messages of their own (`edgead trigger`, a PLC bridge): a
    frame without one is refused then, no_trigger, and makes no inspection."""
    match: Literal["id", "order"] = "id"
    """How a frame finds the trigger ahead of it: by trigger_id; or, where it names none, as the next in order. Give ids
    if you can: after a frame is lost, order is not known until the line pauses or clocks tell, and until then parts
    are NotDecidable, camera_lost."""
    early_ms: Annotated[int, Field(ge=0, le=60_000)] = 20
    """How long a frame that overtook its trigger waits for it; with order, below the time between two parts."""
    exposure: Exposure | None = Exposure()
    """Limits beyond which a frame shows nothing; null: any frame is inspected."""
    repeat_limit: Annotated[int, Field(ge=2, le=1000)] | None = 2
    """This many live frames in a row with the pixels of an earlier one: NotDecidable, frame_repeated; null: never.
    Replayed (with a source) and simulated frames may repeat."""
    recipes: dict[Name, Recipe] = {}
    """Other products of this camera by recipe id; the recipe of a frame or trigger, or `edgead recipe`, picks one."""
    device: Annotated[str, Field(pattern=DEVICE)] | None = None
    """Where the workers of this camera run, such as cuda:1 beside others on cuda:0; null: as worker.device says."""
    priority: Literal["normal", "low"] = "normal"
    """low: while processor cores are short, the workers of this camera wait for those of the others; on a GPU as
    docs/operations.md says."""
    worker: Literal["own", "shared"] = "own"
    """shared: one worker process, with one bank in memory, for all cameras that say so and have template, detector,
    device and priority in common. What kills or hangs it concerns all of them."""
    swap: Literal["beside", "stop"] = "beside"
    """How a new template or detector comes in: loaded beside the old one, which inspects until then; or, where memory
    does not hold both, the old worker is stopped first and frames wait for the new one."""
    guard: Guard | None = Guard()
    """When a swap is taken back by itself; null: never."""


class Worker(_Model):
    """How detector worker processes run."""

    device: Annotated[str, Field(pattern=DEVICE)] = "cpu"
    """cpu, cuda or cuda:N; a camera may name another."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads of each worker; 0 = one per core."""
    backend: Literal["eager", "auto", "inductor", "tensorrt", "tensorrt-rtx"] = "eager"
    """What runs the detector's graph: torch itself (eager), or an engine compiled for this machine by `edgead build`,
    which `edgead run` calls when one is missing. inductor: that or the worker does not start. auto: inductor where an
    engine is there and passes the parity gate, else eager, and the status says why. tensorrt, tensorrt-rtx: for NVIDIA
    GPUs (docs/tensorrt.md), that or the worker does not start. See docs/engines.md."""
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """Number format of a compiled engine's convolutions; matching and scores stay fp32. Eager is always fp32. int8: on
    a CPU."""
    batch: Annotated[int, Field(ge=1, le=32)] = 1
    """Most frames, of different cameras, that a shared worker gives its engine at once."""
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """How long a shared worker lets a frame wait for others to go with it, up to batch; 0: it takes what is there."""
    engines: Annotated[Path | None, Field(strict=False)] = None
    """Folder of compiled engines, relative to this file; only this user may write there. null: edgead/engines in the
    user's state folder ($XDG_STATE_HOME)."""
    engines_mb: Annotated[int, Field(ge=1)] = 2048
    """Megabytes (of 1048576 bytes) of compiled engines beyond which the ones used longest ago go."""
    start_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """A worker that is not ready after this many seconds is killed and started again."""
    hang_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """A worker silent for this many seconds, over one frame or while idle, is killed and started again."""
    restart_budget: Annotated[int, Field(ge=0, le=1000)] = 10
    """A worker that died more often than this within restart_window_s has failed: its frames are answered at once, and
    a restart is tried every 30 seconds."""
    restart_window_s: Annotated[float, Field(gt=0, le=86_400)] = 1800.0
    """Time in which deaths are counted; longer than restart_budget of the slowest starts."""
    self_test_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """An idle worker answers a golden frame again this often; one that answers otherwise is replaced. 0: never."""


class Results(_Model):
    """What is published for every frame."""

    map: Literal["raw", "png16", "none"] = "raw"
    """Anomaly map as little-endian float16 (raw), as 16-bit PNG, or not at all."""
    preview: bool = False
    """Add a JPEG of the frame, longer side at most 640 pixels, to every result: for displays, not for measuring."""


class Evidence(_Model):
    """Which frames and anomaly maps are kept beside the ledger, and for how long.

    All of NotOK and NotDecidable are, as far as the disk keeps up.
    """

    ok_every: Annotated[int, Field(ge=0)] = 100
    """Keep every n-th OK inspection's too; 1: all, 0: none."""
    ok_days: Annotated[float, Field(gt=0, le=36_500)] = 7.0
    """Days evidence of OK inspections is kept."""
    other_days: Annotated[float, Field(gt=0, le=36_500)] = 90.0
    """Days evidence of NotOK and NotDecidable inspections is kept."""
    most_mb: Annotated[int, Field(ge=1)] = 20_480
    """Megabytes (of 1048576 bytes) of all evidence beyond which the oldest goes, whatever its verdict."""


class Ledger(_Model):
    """What is recorded: every trigger, frame, inspection and event, hash-chained; see docs/decisions/0014-ledger.md."""

    path: Annotated[Path, Field(strict=False)] = Path("ledger")
    """Folder of ledger.sqlite and evidence/, relative to this file; best on a disk of its own."""
    most_days: Annotated[float, Field(gt=0, le=36_500)] = 365.0
    """Days a record is kept."""
    most_mb: Annotated[int, Field(ge=1)] = 8192
    """Megabytes (of 1048576 bytes) of records beyond which the oldest go, whatever their age."""
    trigger_repeat_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """A trigger id its camera brought for the same part within so many seconds before is the same trigger: the frame is
    answered with the first result and not inspected. For sources that give every trigger a number of its own, below the
    time the counter takes to begin anew; 0: ids are not compared, because a constant one would pass every part."""
    evidence: Evidence = Evidence()
    """Which frames and maps are kept."""

    @property
    def file(self) -> Path:
        """Where the records are."""
        return self.path / LEDGER_FILE

    @property
    def evidence_folder(self) -> Path:
        """Where the files of evidence are."""
        return self.path / EVIDENCE_FOLDER


class Station(_Model):
    """A station file."""

    schema_: Annotated[Literal["edgead.station/1"], Field(alias="schema")]
    """Format of this file."""
    station: Name
    """Name of the station: part of every result's topic."""
    store: Annotated[Path, Field(strict=False)] = Path("store")
    """Template store, relative to this file."""
    frames: Address = "tcp://127.0.0.1:5601"
    """Where cameras connect (ROUTER; cameras are DEALER)."""
    results: Address = "tcp://127.0.0.1:5602"
    """Where subscribers connect (PUB; subscribers are SUB)."""
    status: Address = "tcp://127.0.0.1:5603"
    """Where `edgead status` asks (ROUTER; who asks is a REQ)."""
    deliveries: Address | None = None
    """Where subscribers by name connect, who get every result (ROUTER; they are DEALER; see docs/delivery.md), such as
    tcp://127.0.0.1:5604. null: nowhere. Needs a ledger."""
    max_frame_bytes: Annotated[int, Field(ge=1, le=MAX_PAYLOAD_BYTES)] = 32 * 1024 * 1024
    """Largest frame in bytes; shared memory is reserved for it, and touched only as far as frames fill it."""
    cameras: Annotated[dict[Name, Camera], Field(min_length=1)]
    """Cameras by name."""
    parts_per_min: Annotated[float, Field(gt=0, le=60_000)] | None = None
    """Rate of the line. A camera without deadline_ms has one part's time for its deadline: 60000 / parts_per_min."""
    worker: Worker = Worker()
    """How detector workers run."""
    publish: Results = Results()
    """What results carry."""
    ledger: Ledger | None = Ledger()
    """What is recorded. null: nothing, and no frame sent twice is noticed: for benches and displays."""
    publishers: dict[PublisherName, dict[str, Any]] = {}
    """Publishers by name, each with its own options (see docs/publishers.md): results to PLC and MES, each in a process
    of its own. `publisher:` says which one it is where the name does not. Need deliveries."""

    @model_validator(mode="after")
    def _publishers_are_fed(self) -> Station:
        if self.publishers and self.deliveries is None:
            raise located("publishers", "publishers are fed by the deliveries: give `deliveries` an address")
        return self

    @model_validator(mode="after")
    def _parts_are_apart(self) -> Station:
        part_ms = None if self.parts_per_min is None else MINUTE_MS / self.parts_per_min
        for name, camera in self.cameras.items():
            by_order = camera.triggers == "ahead" and camera.match == "order"
            if by_order and part_ms is not None and camera.early_ms >= part_ms:
                raise ValueError(
                    f"cameras.{name}.early_ms: expected less than the {part_ms:g} ms between two parts, "
                    f"found {camera.early_ms}: an early frame could not be told from a late one"
                )
        return self

    @model_validator(mode="after")
    def _addresses_differ(self) -> Station:
        taken: dict[str, str] = {}
        for key in ("frames", "results", "status", "deliveries"):
            address = getattr(self, key)
            if address is not None and (other := taken.setdefault(address, key)) != key:
                # The one that stands in the file: the other may be a default.
                here, there = (key, other) if key in self.model_fields_set else (other, key)
                raise located(here, f"expected an address of its own, found that of `{there}`, {address}")
        if self.deliveries is not None and self.ledger is None:
            raise located(
                "deliveries",
                "results that can be delivered later need a ledger: give `ledger` a folder, or set `deliveries: null`",
            )
        return self


def _with_deadlines(station: Station) -> dict[str, Camera]:
    """Return the cameras, each with the deadline the line's rate gives it where it names none."""
    if station.parts_per_min is None:
        return station.cameras
    part = {"deadline_ms": min(LONGEST_DEADLINE_MS, max(1, int(MINUTE_MS / station.parts_per_min)))}
    return {
        name: camera if "deadline_ms" in camera.model_fields_set else camera.model_copy(update=part)
        for name, camera in station.cameras.items()
    }


def load_station(path: Path) -> Station:
    """Return the checked station file, its paths of store and ledger made absolute against the file's folder.

    Raises ``ConfigError`` naming file, line and key of every fault.
    """
    station = load_yaml(path, Station)
    update: dict[str, Any] = {"store": (path.parent / station.store).resolve(), "cameras": _with_deadlines(station)}
    if station.worker.engines is not None:
        folder = (path.parent / station.worker.engines).resolve()
        update["worker"] = station.worker.model_copy(update={"engines": folder})
    if station.ledger is not None:
        update["ledger"] = station.ledger.model_copy(update={"path": (path.parent / station.ledger.path).resolve()})
    return station.model_copy(update=update)


def station_schema() -> dict[str, Any]:
    """Return the JSON Schema of a station file, for editors and other tools."""
    return Station.model_json_schema()
