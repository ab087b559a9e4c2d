"""Webhooks: every result posted in order, signed, repeated until it is taken, whatever the receiver does meanwhile."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import threading

import publisher_peers as peers  # loaded by conftest.py
import pytest

from edgead import result_values

pytestmark = pytest.mark.system


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted; ``answers`` says with which status, one a request, then 200."""

    taken: list
    answers: list

    def do_POST(self):
        """Keep one request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.answers.pop(0) if self.answers else 200
        if status == 0:  # the cable is pulled
            self.close_connection = True
            return
        if status < 300:
            self.taken.append((dict(self.headers), body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def receiver():
    """Return a running receiver: (port, taken, answers)."""
    handler = type("Handler", (Receiver,), {"taken": [], "answers": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1], handler.taken, handler.answers
        server.shutdown()
        thread.join()


def test_results_are_posted_signed_and_in_order(cell, outlets, receiver, tmp_path):
    """Each result is one request in order; time and body give the signature; repetitions after failures are late."""
    port, taken, answers = receiver
    answers.extend([500, 0, 503])
    (tmp_path / "key").write_text("hush\n")
    line = cell({"webhook": {"url": f"http://127.0.0.1:{port}/in?line=1", "secret": {"file": str(tmp_path / "key")}}})
    outlets(line)
    line.produce(20)
    peers.wait_for(lambda: len(taken) == 20, "20 results")
    wanted = [result_values(each, historical=number == 0) for number, each in enumerate(line.results())]
    assert [json.loads(body) for _, body in taken] == [{"schema": "edgead.result/1", **each} for each in wanted]
    for fields, body in taken:
        digest = hmac.new(b"hush", fields["Edgead-Time"].encode() + b"." + body, hashlib.sha256).hexdigest()
        assert fields["Edgead-Signature"] == f"sha256={digest}"
        assert fields["Idempotency-Key"] == json.loads(body)["result_id"]


def test_a_receiver_that_is_away_gets_everything_later(cell, outlets, receiver):
    """What is refused for good is passed over and counted; a killed publisher goes on where it was, in order."""
    port, taken, answers = receiver
    line = cell({"webhook": {"url": f"http://127.0.0.1:{port}/"}})
    running = outlets(line)
    answers.extend([422])
    line.produce(10)
    peers.wait_for(lambda: len(taken) == 9, "9 of 10 results")
    running.kill("webhook")
    line.produce(10)
    peers.wait_for(lambda: json.loads(taken[-1][1])["seq"] == 20, "the rest")
    # One that was taken as its publisher was killed may come again: receivers tell it by its Idempotency-Key.
    seqs = [json.loads(body)["seq"] for _, body in taken]
    assert list(dict.fromkeys(seqs)) == list(range(2, 21))
    assert len(seqs) <= 20
