"""A local file server that misbehaves as told and records the requests it gets."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Reply:
    """One answer.

    `body` is sent from the byte where Range starts. The connection ends after `stop_after` bytes. `length` replaces
    the true Content-Length; "" omits the header. With `hold`, the connection then stays open until the client
    leaves.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str = '"v1"'
    ranges: bool = True
    if_range: bool = True
    stop_after: int | None = None
    length: int | str | None = None
    hold: bool = False


@dataclass
class Server:
    """`script[path]` lists the answers in order; the last one repeats. `asked` lists the requests: path and headers."""

    url: str
    script: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)

    def say(self, path: str, *replies: Reply) -> str:
        """Set the answers at `path`; returns its address."""
        self.script[path] = list(replies)
        return self.url + path

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each request at `path`."""
        return [headers.get("Range") for asked, headers in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lab: Server

    def do_GET(self) -> None:
        self.lab.asked.append((self.path, dict(self.headers)))
        replies = self.lab.script.get(self.path, [Reply(status=404)])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        self.close_connection = True
        status, start, headers = reply.status, 0, {"Connection": "close", **reply.headers}
        asked = self.headers.get("Range")
        same = not reply.if_range or self.headers.get("If-Range", reply.etag) == reply.etag
        if asked and reply.ranges and same and status == 200:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            status = 206 if start < len(reply.body) else 416
            span = f"{start}-{len(reply.body) - 1}" if status == 206 else "*"
            headers.setdefault("Content-Range", f"bytes {span}/{len(reply.body)}")
        body = reply.body[start:]
        if reply.etag:
            headers["ETag"] = reply.etag
        if reply.length != "":
            headers["Content-Length"] = str(len(body) if reply.length is None else reply.length)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: reply.stop_after])
        if reply.hold:
            self.wfile.flush()
            self.lab.held.set()
            self.rfile.read(1)  # until the client leaves

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:  # the client left
        pass


@contextmanager
def serve() -> Iterator[Server]:
    """A server on its own port."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        handler.lab = lab = Server(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield lab
        finally:
            server.shutdown()
            thread.join()
