"""Fetching weight files from a server that behaves, and from servers that do not."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from dataclasses import dataclass, field

import pytest

from runtime import download
from runtime.errors import WeightsError
from runtime.weights import WeightFile, fetch, locate, state

CONTENT = bytes(range(256)) * 4096  # 1 MiB, several blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "net.pth"


@dataclass
class Behaviour:
    """What the server does; ``requests`` collects the headers of every request it saw."""

    content: bytes = CONTENT
    ranges: bool = True
    etag: str = '"v1"'
    length: bool = True
    cut_after: int | None = None
    stall_after: int | None = None
    status: int | None = None
    redirect: str | None = None
    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file as its ``behaviour`` says."""

    behaviour: Behaviour

    def log_message(self, *_: object) -> None:
        """Keep the test output clean."""

    def do_GET(self) -> None:
        """Answer as told."""
        does = self.behaviour
        does.requests.append(dict(self.headers))
        if does.redirect or does.status:
            self.send_response(302 if does.redirect else does.status)
            self.send_header("Location", does.redirect or "")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, asked = 0, self.headers.get("Range")
        if does.ranges and asked and self.headers.get("If-Range", does.etag) == does.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(does.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(does.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(does.content) - 1}/{len(does.content)}")
        if does.etag:
            self.send_header("ETag", does.etag)
        if does.length:
            self.send_header("Content-Length", str(len(does.content) - start))
        self.end_headers()
        end = next((n for n in (does.cut_after, does.stall_after) if n is not None), len(does.content))
        self.wfile.write(does.content[start:end])
        self.wfile.flush()
        if does.stall_after is not None:
            time.sleep(1.0)


@pytest.fixture
def server():
    """Run a server on this machine and return what it does, to be changed by the test."""
    behaviour = Behaviour()
    handler = type("BoundHandler", (Handler,), {"behaviour": behaviour})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        behaviour.url = f"http://127.0.0.1:{running.server_port}/{NAME}"
        yield behaviour
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Return the weights folder the environment points to; it does not exist yet."""
    monkeypatch.setenv("EDGEAD_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "weights"


def weight(server, **changes):
    """Return the record of the served file, with the given fields changed."""
    fields = {"sha256": DIGEST, "size": len(CONTENT), "licence": "none, test data"}
    return WeightFile(name="net", filename=NAME, url=server.url, **(fields | changes))


def visible(folder):
    """Return the names in the folder without the locks."""
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock")


def test_fetched_file_is_verified_and_alone(server, folder):
    """A good download is located afterwards, reports its progress to the last byte, and leaves no part."""
    seen = []
    path = fetch(weight(server), lambda arrived, total: seen.append((arrived, total)))
    assert path == locate(weight(server)) == folder / NAME
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [arrived for arrived, _ in seen] == sorted(arrived for arrived, _ in seen)
    assert visible(folder) == [NAME]


def test_present_file_costs_no_traffic(server):
    """Fetching what is present asks the server nothing."""
    fetch(weight(server))
    fetch(weight(server))
    assert len(server.requests) == 1


def test_damaged_file_is_fetched_anew(server, folder):
    """A damaged file in the folder is replaced by the fetched one."""
    folder.mkdir()
    (folder / NAME).write_bytes(b"wrong")
    assert fetch(weight(server)).read_bytes() == CONTENT


def test_wrong_digest_removes_the_file_and_names_both(server, folder):
    """Other bytes of the right size are not kept, and the error names both digests."""
    server.content = bytes(len(CONTENT))
    with pytest.raises(WeightsError) as raised:
        fetch(weight(server))
    assert DIGEST in str(raised.value)
    assert hashlib.sha256(server.content).hexdigest() in str(raised.value)
    assert visible(folder) == []


def test_cut_download_says_how_much_arrived_and_resumes(server, folder):
    """After a cut the error names the bytes that arrived, and the next fetch asks only for the rest."""
    server.cut_after = 400_000
    with pytest.raises(WeightsError, match=rf"400000 of {len(CONTENT)} bytes.*again to resume"):
        fetch(weight(server))
    assert state(weight(server)) == "partial"
    server.cut_after = None
    assert fetch(weight(server)).read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=400000-"
    assert server.requests[1]["If-Range"] == '"v1"'
    assert visible(folder) == [NAME]


def test_server_without_ranges_restarts_cleanly(server):
    """A server that ignores Range sends all again, and nothing is doubled."""
    server.cut_after, server.ranges = 400_000, False
    with pytest.raises(WeightsError):
        fetch(weight(server))
    server.cut_after = None
    assert fetch(weight(server)).read_bytes() == CONTENT


def test_file_that_changed_on_the_server_is_not_mixed(server):
    """When the validator no longer fits, the old part is dropped and the new file comes whole."""
    server.cut_after, server.content = 400_000, bytes(len(CONTENT))
    with pytest.raises(WeightsError):
        fetch(weight(server))
    server.cut_after, server.content, server.etag = None, CONTENT, '"v2"'
    assert fetch(weight(server)).read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_resuming_without_a_strong_validator_is_guarded_by_the_digest(server, folder, etag):
    """Without a strong ETag the rest is asked for all the same, and a mixture is refused and removed."""
    server.cut_after, server.content, server.etag = 400_000, bytes(len(CONTENT)), etag
    with pytest.raises(WeightsError):
        fetch(weight(server))
    server.cut_after, server.content = None, CONTENT
    with pytest.raises(WeightsError, match="expected sha256"):
        fetch(weight(server))
    assert "If-Range" not in server.requests[1]
    assert visible(folder) == []
    assert fetch(weight(server)).read_bytes() == CONTENT


def test_part_that_is_already_whole_is_published(server, folder):
    """A run that ended between the last byte and the digest is finished by the next one."""
    folder.mkdir()
    (folder / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(weight(server)).read_bytes() == CONTENT


def test_part_longer_than_the_file_is_restarted(server, folder):
    """A part that cannot belong to the file is dropped and the file fetched whole."""
    folder.mkdir()
    (folder / f"{NAME}.part").write_bytes(CONTENT + b"tail")
    assert fetch(weight(server)).read_bytes() == CONTENT


def test_offer_above_the_size_is_refused_before_it_arrives(server, folder):
    """A server that announces more than the pinned size is not read."""
    server.content = CONTENT * 2
    with pytest.raises(WeightsError, match=f"at most {len(CONTENT)} bytes, the server offers {len(CONTENT) * 2}"):
        fetch(weight(server))
    assert visible(folder) == []


def test_unannounced_excess_is_stopped_at_the_size(server, folder):
    """A server that states no length cannot fill the disk."""
    server.content, server.length = CONTENT * 2, False
    with pytest.raises(WeightsError, match="the server sent more"):
        fetch(weight(server))
    assert visible(folder) == []


def test_unpinned_size_is_bounded_by_the_stated_limit(server, monkeypatch):
    """Without a pinned size the module's limit holds."""
    monkeypatch.setattr("runtime.weights.LIMIT_BYTES", 1000)
    with pytest.raises(WeightsError, match="at most 1000 bytes"):
        fetch(weight(server, size=None))


def test_unannounced_cut_is_still_a_cut(server):
    """A cut that the server's framing hides is told by the pinned size, and the part is kept."""
    server.cut_after, server.length = 400_000, False
    with pytest.raises(WeightsError, match=rf"400000 of {len(CONTENT)} bytes"):
        fetch(weight(server))
    assert state(weight(server)) == "partial"


def test_silent_server_ends_the_wait(server, monkeypatch):
    """A server that stops sending is given up after the timeout, and what arrived is kept."""
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    server.stall_after = 300_000
    with pytest.raises(WeightsError, match=r"stopped after \d+ bytes"):
        fetch(weight(server))
    assert state(weight(server)) == "partial"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/net.pth", "net.pth"])
def test_other_schemes_are_refused(server, folder, url):
    """Only http and https are fetched."""
    server.url = url
    with pytest.raises(WeightsError, match="scheme https or http"):
        fetch(weight(server))
    assert visible(folder) == []


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/net.pth"])
def test_redirects_to_other_schemes_are_refused(server, folder, target):
    """A redirect does not open the door to another scheme."""
    server.redirect = target
    with pytest.raises(WeightsError):
        fetch(weight(server))
    assert visible(folder) == []


def test_https_is_not_left_by_a_redirect():
    """What began as https stays https: a short pin would not tell a forger's file."""
    handler = download._SafeRedirects()
    request = download.urllib.request.Request("https://example.org/net.pth")
    with pytest.raises(WeightsError, match="scheme https,"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/net.pth")


def test_refusal_of_the_server_is_reported(server, folder):
    """An HTTP error is one of our errors, with its code."""
    server.status = 404
    with pytest.raises(WeightsError, match="404"):
        fetch(weight(server))
    assert visible(folder) == []


def test_no_server_is_reported(server, folder):
    """An address where nobody listens is one of our errors and leaves no part."""
    server.url = "http://127.0.0.1:9/net.pth"
    with pytest.raises(WeightsError, match="refused"):
        fetch(weight(server))
    assert visible(folder) == []


def test_second_fetch_of_the_same_file_is_refused_while_one_runs(server, folder):
    """Two fetches never write one part."""
    folder.mkdir()
    with (
        download.exclusive(folder / f".{NAME}.lock"),
        pytest.raises(WeightsError, match="another fetch"),
    ):
        fetch(weight(server))
    assert server.requests == []
