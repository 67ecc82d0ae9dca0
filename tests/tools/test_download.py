"""experiments.download against failing servers, networks and disks: every kind of failure that we could think of."""

import contextlib
import errno
import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from http_lab import Reply, Server, sha256

from experiments import download, web
from experiments.download import Download
from experiments.files import UserError
from experiments.web import DownloadError

ROOT = Path(__file__).resolve().parents[2]
BODY = random.Random(0).randbytes(3_000_000)
OTHER = random.Random(1).randbytes(3_000_000)
PATH = "/net.pt"


@pytest.fixture
def server(running: Server) -> Server:
    running.asked.clear()
    running.held.clear()
    return running


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "net.pt"


def make(url: str, body: bytes = BODY, size_bytes: int = len(BODY), **options) -> Download:
    return Download(url, lambda got: got == sha256(body), size_bytes=size_bytes, **{"pause_s": 0.005, **options})


def left(dest: Path) -> list[str]:
    return sorted(path.name for path in dest.parent.iterdir() if path.suffix != ".lock")


def refused(url: str, dest: Path, match: str, **options) -> DownloadError:
    """The error. Checks that neither the file nor anything like it is left."""
    with pytest.raises(DownloadError, match=match) as caught:
        make(url, **options).to(dest)
    assert left(dest) == []
    return caught.value


@pytest.mark.parametrize("size_bytes", [len(BODY), 0])
def test_a_file_arrives_whole_and_alone(server, dest, size_bytes):
    assert make(server.say(PATH, Reply(BODY)), size_bytes=size_bytes).to(dest) == sha256(BODY)
    assert dest.read_bytes() == BODY
    assert left(dest) == ["net.pt"]


@pytest.mark.parametrize("size_bytes", [len(BODY), 0])
@pytest.mark.parametrize("etag", ['"v1"', ""])
def test_dropped_connections_are_resumed_where_they_broke(server, dest, size_bytes, etag):
    url = server.say(PATH, *(Reply(BODY, stop_after=n, etag=etag) for n in (1_000_000, 70_001, None)))
    make(url, size_bytes=size_bytes).to(dest)
    assert dest.read_bytes() == BODY
    assert server.ranges(PATH) == [None, "bytes=1000000-", "bytes=1070001-"]
    assert [headers.get("If-Range") for _, headers in server.asked] == [None, *[etag or None] * 2]


def test_a_date_stands_in_for_a_weak_etag(server, dest):
    date = {"Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
    url = server.say(PATH, *(Reply(BODY, etag='W/"1"', if_range=False, headers=date, stop_after=n) for n in (9, None)))
    make(url).to(dest)
    assert server.asked[1][1]["If-Range"] == date["Last-Modified"]


def test_a_server_without_ranges_starts_over(server, dest):
    make(server.say(PATH, *(Reply(BODY, ranges=False, stop_after=n) for n in (1_000_000, None)))).to(dest)
    assert dest.read_bytes() == BODY


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changes_between_attempts_is_fetched_anew(server, dest, if_range):
    new = Reply(OTHER, etag='"v2"', if_range=if_range)
    make(server.say(PATH, Reply(BODY, stop_after=1_000_000), new), body=OTHER).to(dest)
    assert dest.read_bytes() == OTHER


def test_a_server_that_continues_whichever_version_it_has_is_noticed_each_time(server, dest):
    third = OTHER[::-1]
    versions = [(BODY, '"v1"', 1_000_000), (OTHER, '"v2"', None), (OTHER, '"v2"', 1_000_000), (third, '"v3"', None)]
    replies = [Reply(body, etag=etag, stop_after=n, if_range=False) for body, etag, n in versions]
    make(server.say(PATH, *replies), body=third).to(dest)
    assert dest.read_bytes() == third
    assert server.ranges(PATH) == [None, "bytes=1000000-"] * 2 + [None]


def test_a_server_that_continues_elsewhere_starts_over(server, dest):
    elsewhere = Reply(BODY, headers={"Content-Range": "bytes 5-2999999/3000000"})
    make(server.say(PATH, Reply(BODY, stop_after=1_000_000), elsewhere, Reply(BODY))).to(dest)
    assert dest.read_bytes() == BODY
    assert server.ranges(PATH) == [None, "bytes=1000000-", None]


def test_two_versions_that_meet_in_one_file_are_found_out_and_fetched_once_more(server, dest):
    make(server.say(PATH, Reply(BODY, etag="", stop_after=1_000_000), Reply(OTHER, etag="")), body=OTHER).to(dest)
    assert dest.read_bytes() == OTHER
    assert server.ranges(PATH) == [None, "bytes=1000000-", None]


def test_wrong_bytes_in_pieces_end_after_the_second_time(server, dest):
    replies = [Reply(OTHER, stop_after=n) for n in (2_000_000, 100, 2_000_000, None)]
    refused(server.say(PATH, *replies), dest, f"other bytes than the published.*{sha256(OTHER)}")


@pytest.mark.parametrize("size_bytes", [len(BODY), 0])
def test_a_length_that_claims_too_much(server, dest, size_bytes):
    make(server.say(PATH, Reply(BODY, length=len(BODY) + 500)), size_bytes=size_bytes).to(dest)
    assert dest.read_bytes() == BODY


def test_a_length_that_claims_too_little(server, dest):
    make(server.say(PATH, Reply(BODY, length=2_000_000), Reply(BODY))).to(dest)
    assert dest.read_bytes() == BODY
    assert server.ranges(PATH) == [None, "bytes=2000000-"]
    dest.unlink()
    refused(server.say(PATH, Reply(BODY, length=2_000_000)), dest, "other bytes", size_bytes=0)


def test_a_truncated_body_without_a_length(server, dest):
    make(server.say(PATH, Reply(BODY, length="", stop_after=9), Reply(BODY, length=""))).to(dest)
    assert dest.read_bytes() == BODY


def test_a_file_that_is_always_shorter_ends_with_its_size(server, dest):
    short = BODY[:-1_000_000]
    refused(server.say(PATH, Reply(short)), dest, "other bytes than the published ones: 2000000 bytes")
    assert server.ranges(PATH) == [None, "bytes=2000000-"]
    with pytest.raises(DownloadError, match="ended the file after 2000000 of 3000000 bytes"):
        make(server.say(PATH, Reply(short, ranges=False))).to(dest)
    assert len(server.asked) == 5


def test_a_file_that_is_longer_is_refused(server, dest):
    refused(server.say(PATH, Reply(BODY + b"more")), dest, "more than the 3000000 bytes")


def test_redirects_are_followed(server, dest):
    server.say("/a", Reply(status=302, headers={"Location": "/b?dl=1"}))
    server.say("/b?dl=1", Reply(status=307, headers={"Location": server.url + PATH}))
    server.say(PATH, Reply(BODY, stop_after=9), Reply(BODY))
    make(server.url + "/a").to(dest)
    assert dest.read_bytes() == BODY
    assert server.ranges("/a") == server.ranges(PATH) == [None, "bytes=9-"]


def test_redirects_that_lead_nowhere(server, dest):
    refused(server.say("/c", Reply(status=302, headers={"Location": "/c"})), dest, "cannot be followed.*10 redirects")
    refused(server.say("/c", Reply(status=302, headers={"Location": "file:///etc/passwd"})), dest, "cannot be followed")


class Encrypted(requests.adapters.BaseAdapter):
    """Answers https: requests with a redirect or an error."""

    def __init__(self, location: str = "", error: Exception | None = None) -> None:
        super().__init__()
        self.location, self.error = location, error

    def send(self, request, **kwargs):
        if self.error:
            raise self.error
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 302, request.url, request
        answer.headers["Location"] = self.location
        answer.raw = io.BytesIO()
        return answer

    def close(self) -> None:
        pass


def test_a_redirect_to_an_unencrypted_address_is_refused(server, dest, monkeypatch):
    url, session = server.say(PATH, Reply(BODY)), web.open_session()
    session.mount("https://", Encrypted(url))
    monkeypatch.setattr(web, "open_session", lambda: session)
    refused("https://example.org/net.pt", dest, f"from https to {url}, which is not encrypted")
    assert server.asked == []


def test_a_certificate_that_does_not_verify_is_not_tried_again(dest, monkeypatch):
    session = web.open_session()
    session.mount("https://", Encrypted(error=requests.exceptions.SSLError("self-signed certificate")))
    monkeypatch.setattr(web, "open_session", lambda: session)
    refused("https://example.org/net.pt", dest, "certificate does not verify: self-signed")


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204])
def test_a_refusal_is_said_at_once(server, dest, status):
    refused(server.say(PATH, Reply(status=status)), dest, f"answered {status}")
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again_when_it_says(server, dest, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    busy = [Reply(status=429, headers={"Retry-After": "7"}), Reply(status=500), Reply(status=503)]
    busy[2].headers["Retry-After"] = "Wed, 01 Jan 2100 00:00:00 GMT"
    make(server.say(PATH, *busy, Reply(BODY)), pause_s=1.0).to(dest)
    assert waits == [7, 2, 60]


def test_a_server_that_stays_busy_ends_it(server, dest):
    refused(server.say(PATH, Reply(status=500)), dest, r"answered 500.*\(6 attempts\)")
    assert len(server.asked) == 6


def test_an_attempt_that_brings_a_megabyte_is_no_failure(server, dest):
    replies = [Reply(BODY, stop_after=n) for n in (9, 9, 1 << 20, 9, 9)]
    make(server.say(PATH, *replies, Reply(BODY)), attempts=4).to(dest)
    assert dest.read_bytes() == BODY


def test_progress_that_starts_over_each_time_is_none(server, dest):
    with pytest.raises(DownloadError, match="connection broke"):
        make(server.say(PATH, Reply(BODY, ranges=False, stop_after=1 << 21))).to(dest)
    assert len(server.asked) == 6
    replies = [Reply(BODY, ranges=False, stop_after=n) for n in [1 << 21, 9] * 10]
    with pytest.raises(DownloadError, match="connection broke"):
        make(server.say(PATH, *replies, Reply(status=404))).to(dest)


def test_wrong_bytes_are_refused_and_what_was_there_stays(server, dest):
    refused(server.say(PATH, Reply(OTHER)), dest, "other bytes")
    assert len(server.asked) == 1
    dest.write_bytes(b"mine")
    with pytest.raises(DownloadError):
        make(server.url + PATH).to(dest)
    assert dest.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"\n<!DOCTYPE html><title>Quota exceeded", "application/octet-stream"), (b"Sign in", "text/html; charset=utf-8")],
)
def test_a_web_page_in_place_of_the_file_is_called_one(server, dest, body, kind):
    refused(server.say(PATH, Reply(body, headers={"Content-Type": kind})), dest, "web page.*browser")


def test_a_compressed_body_is_refused(server, dest):
    refused(server.say(PATH, Reply(BODY, headers={"Content-Encoding": "gzip"})), dest, "compressed")
    assert server.asked[0][1]["Accept-Encoding"] == "identity"


def test_too_small_a_disk_is_said_before_anything_is_written(server, dest, monkeypatch):
    monkeypatch.setattr(download, "free_bytes", lambda path: 1_000_000)
    refused(server.say(PATH, Reply(BODY)), dest, r"3.0 MB are needed, 1.0 MB are free")


def test_a_disk_that_fills_up_gets_its_space_back(server, dest, monkeypatch):
    real, count = web.read, iter(range(3))

    def fill(answer):
        if next(count) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(answer)

    monkeypatch.setattr(web, "read", fill)
    with pytest.raises(UserError, match="disk is full"):
        make(server.say(PATH, Reply(BODY))).to(dest)
    assert left(dest) == []


def test_no_server_is_offline_and_soon(dest):
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        error = refused(f"http://127.0.0.1:{free.getsockname()[1]}/", dest, r"no answer:.*refused.*\(2 attempts\)")
    assert error.offline


def test_a_server_that_falls_silent_is_a_broken_connection(server, dest):
    url = server.say(PATH, Reply(BODY, stop_after=100_000, hold=True), Reply(BODY))
    make(url, timeout_s=(5, 0.1)).to(dest)
    assert server.ranges(PATH) == [None, "bytes=100000-"]


@pytest.mark.parametrize("seed", range(6))
def test_any_mixture_of_faults_ends_in_the_right_bytes(server, dest, seed):
    choose = random.Random(seed)
    faults = [
        lambda: Reply(BODY, stop_after=choose.randrange(400_000)),
        lambda: Reply(BODY, stop_after=choose.randrange(400_000), length=""),
        lambda: Reply(BODY, ranges=False, stop_after=choose.randrange(900_000)),
        lambda: Reply(BODY, etag=f'"{choose.random()}"', stop_after=choose.randrange(400_000)),
        lambda: Reply(BODY, length=choose.randrange(400_000)),
        lambda: Reply(status=503),
    ]
    url = server.say(PATH, *(choose.choice(faults)() for _ in range(12)), Reply(BODY))
    while not dest.exists():  # run again after three bodies in a row that claim to be the whole file
        with contextlib.suppress(DownloadError):
            make(url, attempts=50).to(dest)
        assert len(server.asked) < 100
    assert dest.read_bytes() == BODY
    assert left(dest) == ["net.pt"]


CHILD = """
import sys
from pathlib import Path
from experiments.download import Download
Download(sys.argv[1], lambda got: got == sys.argv[3], size_bytes=3_000_000).to(Path(sys.argv[2]))
"""


def child(url: str, dest: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, url, str(dest), sha256(BODY)], cwd=ROOT)


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("come", [9, 1_234_567])
def test_after_sigkill_only_the_rest_is_asked_for(server, dest, come):
    url = server.say(PATH, Reply(BODY, stop_after=come, hold=True), Reply(BODY))
    partial = dest.with_name(".net.pt.partial")
    with child(url, dest) as process:
        wait_for(lambda: partial.exists() and partial.stat().st_size == come)
        process.send_signal(signal.SIGKILL)
    assert not dest.exists()
    make(url).to(dest)
    assert dest.read_bytes() == BODY
    assert server.ranges(PATH) == [None, f"bytes={come}-"]
    assert left(dest) == ["net.pt"]


def test_what_is_left_of_another_address_is_not_continued(server, dest):
    with pytest.raises(DownloadError):
        make(server.say("/old.pt", Reply(OTHER, stop_after=1_000)), attempts=1).to(dest)
    assert ".net.pt.partial" in left(dest)
    make(server.say(PATH, Reply(BODY))).to(dest)
    assert server.ranges(PATH) == [None]


def test_notes_that_are_damaged_start_it_over(server, dest):
    dest.parent.mkdir()
    dest.with_name(".net.pt.partial").write_bytes(b"abc")
    dest.with_name(".net.pt.partial.json").write_text("[")
    make(server.say(PATH, Reply(BODY))).to(dest)
    assert server.ranges(PATH) == [None]


def test_two_processes_fetch_a_file_once(server, dest):
    url = server.say(PATH, Reply(BODY, stop_after=1_000_000, hold=True), Reply(BODY))
    with child(url, dest) as first:
        assert server.held.wait(30)
        waiting = threading.Thread(target=make(url).to, args=(dest,))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert len(server.asked) == 1
        first.send_signal(signal.SIGKILL)  # the lock ends with the process, and the other process takes over
    waiting.join(30)
    assert dest.read_bytes() == BODY
    with child(url, dest) as third:
        assert third.wait(30) == 0
    assert server.ranges(PATH) == [None, "bytes=1000000-"]
