"""One file over http(s) into a part file that a later run can resume.

Rules: no other scheme, also not after a redirect, and no step from https down to http; every wait has a timeout; the
size is bounded before and while bytes arrive; what arrived before a cut stays on disk. Nothing here decides whether
the bytes are the right ones: the caller compares the digest, which also makes resuming without a validator safe.
"""

from __future__ import annotations

import fcntl
import http.client
import re
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runtime.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Progress = Callable[[int, int | None], None]

# Longest silence of the server, connecting or between two blocks; a slow but living line is never cut.
TIMEOUT_S = 30.0
BLOCK_BYTES = 1 << 18
# RFC 9110: the range starts past the end of the file, i.e. nothing is left to send.
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL_CONTENT = 206


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https only, and never from https to http."""

    def redirect_request(  # noqa: PLR0917 - the signature is urllib's
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        require_web(newurl, secure=urlsplit(req.full_url).scheme == "https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def require_web(url: str, *, secure: bool = False) -> None:
    """Refuse any url that is not http or https (only https where ``secure``) with ``WeightsError``."""
    scheme = urlsplit(url).scheme.lower()
    allowed = ("https",) if secure else ("https", "http")
    if scheme not in allowed:
        raise WeightsError(f"expected a url with scheme {' or '.join(allowed)}, found {url!r}; correct the url")


def validator_path(part: Path) -> Path:
    """Name the file that keeps the ETag (or date) of what ``part`` is a part of."""
    return part.with_name(part.name + ".etag")


def discard(part: Path) -> None:
    """Forget a part file and its validator; absent files are no error."""
    part.unlink(missing_ok=True)
    validator_path(part).unlink(missing_ok=True)


def download(url: str, part: Path, limit_bytes: int, progress: Progress | None = None) -> None:
    """Bring ``part`` to the whole content of ``url``, continuing from what it already holds where the server allows.

    ``progress`` is called with (bytes on disk, bytes in all or None where the server does not say). Raises
    ``WeightsError`` when the server cannot be reached or refuses, offers or sends more than ``limit_bytes``, or stops
    early; after an early stop the part stays and the next call resumes it. The caller holds ``exclusive``.
    """
    require_web(url)
    try:
        with part.open("ab") as sink:
            _receive(url, part, sink, limit_bytes, progress)
    except urllib.error.HTTPError as error:
        error.close()
        raise WeightsError(f"{url}: the server answered {error.code} {error.reason}; check the url") from error
    except (OSError, http.client.HTTPException) as error:
        # URLError, timeouts, resets and a full disk are all OSError; IncompleteRead is an HTTPException.
        arrived = part.stat().st_size if part.exists() else 0
        raise WeightsError(
            f"{url}: the transfer stopped after {arrived} bytes ({_reason(error)}); run it again to resume"
        ) from error
    finally:
        if part.exists() and not part.stat().st_size:
            discard(part)  # nothing arrived: there is nothing to resume


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold the lock file for the block; a second holder, in any process, is refused with ``WeightsError``.

    A file of its own, because the part is renamed when it is whole: who still had it open would write into the
    published file.
    """
    with lock.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WeightsError(f"another fetch holds {lock}; wait for it or end it, then try again") from error
        yield


def _receive(url: str, part: Path, sink: IO[bytes], limit_bytes: int, progress: Progress | None) -> None:
    start = sink.tell()
    try:
        response = _open(url, start, validator_path(part))
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE or not start:
            raise
        error.close()
        if _total_of(error.headers.get("Content-Range", "")) == start:
            return  # the part was already whole: a run ended between the last byte and the digest
        sink.truncate(0)
        start, response = 0, _open(url, 0, validator_path(part))
    with response:
        if start and not _continues(response, start):
            sink.truncate(0)  # the file changed, or the server does not do ranges: what we hold is of no use
            start = 0
            if response.status == _PARTIAL_CONTENT:
                raise WeightsError(f"{url}: the server sent another range than asked for; run it again to restart")
        _remember_validator(response, validator_path(part))
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        if total is not None and total > limit_bytes:
            discard(part)
            raise WeightsError(f"{url}: expected at most {limit_bytes} bytes, the server offers {total}; not fetched")
        arrived = _copy(url, response, sink, (start, total, limit_bytes), progress)
    if total is not None and arrived < total:
        raise WeightsError(f"{url}: the transfer stopped at {arrived} of {total} bytes; run it again to resume")


def _copy(
    url: str,
    response: http.client.HTTPResponse,
    sink: IO[bytes],
    bounds: tuple[int, int | None, int],
    progress: Progress | None,
) -> int:
    arrived, total, limit_bytes = bounds
    while block := response.read(BLOCK_BYTES):
        arrived += len(block)
        if arrived > limit_bytes:
            sink.truncate(0)
            raise WeightsError(f"{url}: expected at most {limit_bytes} bytes, the server sent more; nothing kept")
        sink.write(block)
        if progress is not None:
            progress(arrived, total)
    sink.flush()
    return arrived


def _open(url: str, start: int, validator: Path) -> http.client.HTTPResponse:
    # identity: a compressed answer would have neither the size nor the digest of the file.
    headers = {"Accept-Encoding": "identity", "User-Agent": "edgead"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator.exists():
            headers["If-Range"] = validator.read_text(encoding="ascii")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - require_web ran before
    opener = urllib.request.build_opener(_SafeRedirects)
    response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    return response


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == _PARTIAL_CONTENT and sent is not None and int(sent[1]) == start


def _total_of(content_range: str) -> int | None:
    total = re.search(r"/(\d+)$", content_range)
    return int(total[1]) if total else None


def _remember_validator(response: http.client.HTTPResponse, validator: Path) -> None:
    # RFC 9110 lets If-Range carry a strong ETag only; W/"..." promises nothing about bytes.
    etag = response.headers.get("ETag", "")
    value = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if value and value.isascii() and value.isprintable():
        validator.write_text(value, encoding="ascii")
    else:
        validator.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)
