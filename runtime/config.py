"""The station file: what one edgead host runs. Data only; reading it does nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runtime.header import MAX_PAYLOAD_BYTES, is_name
from runtime.yamlfile import load_yaml

_ADDRESS = re.compile(r"tcp://(\*|[A-Za-z0-9.:\[\]_-]+):(?P<port>\d{1,5})|ipc://.+")
MAX_PORT = 65535
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


class Camera(_Model):
    """One camera and the detector that looks at its frames, in a worker process of its own."""

    product: Slug
    """Product whose active template is used."""
    detector: Slug = "hetmm"
    """Detector; its template for the product must be active in the store."""
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] = 1000
    """Longest time from a frame's arrival to its inspection; later is NotDecidable.
    Set it below the time to the reject gate."""
    queue: Annotated[int, Field(ge=1, le=256)] = 8
    """Frames that may wait for the detector; one more is answered at once: NotDecidable, overload."""
    exposure: Exposure | None = Exposure()
    """Limits beyond which a frame shows nothing; null: any frame is inspected."""
    repeat_limit: Annotated[int, Field(ge=2, le=1000)] | None = 2
    """This many live frames in a row with the pixels of an earlier one: NotDecidable, frame_repeated; null: never.
    Replayed (with a source) and simulated frames may repeat."""


class Worker(_Model):
    """How detector worker processes run."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    """cpu, cuda or cuda:N."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads of each worker; 0 = one per core."""
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
    worker: Worker = Worker()
    """How detector workers run."""
    publish: Results = Results()
    """What results carry."""
    ledger: Ledger | None = Ledger()
    """What is recorded. null: nothing, and no frame sent twice is noticed: for benches and displays."""

    @model_validator(mode="after")
    def _addresses_differ(self) -> Station:
        addresses = [self.frames, self.results, self.status, *filter(None, [self.deliveries])]
        if len(set(addresses)) < len(addresses):
            raise ValueError("frames, results, status and deliveries need different addresses")
        if self.deliveries is not None and self.ledger is None:
            raise ValueError("deliveries need a ledger: give `ledger` a folder, or set `deliveries: null`")
        return self


def load_station(path: Path) -> Station:
    """Return the checked station file, its paths of store and ledger made absolute against the file's folder.

    Raises ``ConfigError`` naming file, line and key of every fault.
    """
    station = load_yaml(path, Station)
    update: dict[str, Any] = {"store": (path.parent / station.store).resolve()}
    if station.ledger is not None:
        update["ledger"] = station.ledger.model_copy(update={"path": (path.parent / station.ledger.path).resolve()})
    return station.model_copy(update=update)


def station_schema() -> dict[str, Any]:
    """Return the JSON Schema of a station file, for editors and other tools."""
    return Station.model_json_schema()
