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


class Worker(_Model):
    """How detector worker processes run."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    """cpu, cuda or cuda:N."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads of each worker; 0 = one per core."""
    start_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """A worker that is not ready after this many seconds is killed and started again."""
    hang_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """A worker silent for this many seconds over one frame is killed and started again."""


class Results(_Model):
    """What is published for every frame."""

    map: Literal["raw", "png16", "none"] = "raw"
    """Anomaly map as little-endian float16 (raw), as 16-bit PNG, or not at all."""
    preview: bool = False
    """Add a JPEG of the frame, longer side at most 640 pixels, to every result: for displays, not for measuring."""


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
    max_frame_bytes: Annotated[int, Field(ge=1, le=MAX_PAYLOAD_BYTES)] = 32 * 1024 * 1024
    """Largest frame in bytes; shared memory is reserved for it, and touched only as far as frames fill it."""
    cameras: Annotated[dict[Name, Camera], Field(min_length=1)]
    """Cameras by name."""
    worker: Worker = Worker()
    """How detector workers run."""
    publish: Results = Results()
    """What results carry."""

    @model_validator(mode="after")
    def _addresses_differ(self) -> Station:
        addresses = [self.frames, self.results, self.status]
        if len(set(addresses)) < len(addresses):
            raise ValueError("frames, results and status need three different addresses")
        return self


def load_station(path: Path) -> Station:
    """Return the checked station file, its store path made absolute against the file's folder.

    Raises ``ConfigError`` naming file, line and key of every fault.
    """
    station = load_yaml(path, Station)
    return station.model_copy(update={"store": (path.parent / station.store).resolve()})


def station_schema() -> dict[str, Any]:
    """Return the JSON Schema of a station file, for editors and other tools."""
    return Station.model_json_schema()
