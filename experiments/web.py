"""HTTP requests with readable errors for servers' responses and broken connections."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

import requests
import urllib3

from experiments.files import UserError

_CHUNK_BYTES = 1 << 18
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_PAGE = re.compile(rb"\s*<(!doctype|html|head|script|\?xml)", re.IGNORECASE)
_Timeout = tuple[float, float]


class DownloadError(UserError):
    """A file could not be fetched. `offline`: no server was reached."""

    def __init__(self, message: str, offline: bool = False) -> None:
        super().__init__(message)
        self.offline = offline


class AttemptError(Exception):
    """An attempt failed and may be repeated, with at most `attempts` attempts in all, after `wait_s`."""

    def __init__(self, reason: str, attempts: int = 1_000, wait_s: float = 0.0, offline: bool = False) -> None:
        super().__init__(reason)
        self.attempts, self.wait_s, self.offline = attempts, wait_s, offline


def open_session() -> requests.Session:
    """A session that follows at most ten redirects, but none from https to http."""
    session = _Session()
    session.max_redirects = 10
    session.headers["User-Agent"] = "mtm-weights"
    return session


def get(session: requests.Session, url: str, headers: dict[str, str], timeout_s: _Timeout) -> requests.Response:
    """The response, with status 200, 206 or 416 and its body still to be read. Otherwise raises AttemptError or
    DownloadError."""
    try:
        answer = session.get(url, headers=headers, stream=True, timeout=timeout_s)
    except requests.exceptions.SSLError as error:
        raise DownloadError(f"the server's certificate does not verify: {_cause(error)}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        if isinstance(error.args[0] if error.args else None, urllib3.exceptions.ProtocolError):
            raise AttemptError(f"no answer: {_cause(error)}") from error
        raise AttemptError(f"no answer: {_cause(error)}", attempts=2, offline=True) from error
    except requests.RequestException as error:
        raise DownloadError(f"the server's answer cannot be followed: {_cause(error)}") from error
    if answer.status_code in (200, 206, 416):
        return answer
    answer.close()
    said = f"the server answered {answer.status_code} {answer.reason}"
    if answer.status_code in _AGAIN:
        raise AttemptError(said, wait_s=_retry_after_s(answer))
    raise DownloadError(said)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and resp.url.startswith("https:") and not urljoin(resp.url, target).startswith("https:"):
            raise DownloadError(
                f"the server redirects from https to {urljoin(resp.url, target)}, which is not encrypted"
            )
        return target


def read(answer: requests.Response) -> bytes:
    """The bytes that have arrived; b"" at the end. Unlike with requests' own chunks, no bytes are lost if the
    connection breaks."""
    try:
        return answer.raw.read1(_CHUNK_BYTES)
    except urllib3.exceptions.HTTPError as error:
        raise AttemptError(f"the connection broke: {_cause(error)}") from error


def refuse_pages(answer: requests.Response, data: bytes) -> None:
    """Raises DownloadError if this response, which begins with `data`, is a web page. File hosts send one to ask for a
    confirmation, or if a quota is used up."""
    if answer.headers.get("Content-Type", "").lower().startswith("text/html") or _PAGE.match(data):
        raise DownloadError(
            "the server sent a web page in place of the file. Fetch it in a browser, and put it in place by hand"
        )


def validator(answer: requests.Response) -> str:
    """The identifier of this version of the file for If-Range: a strong ETag, else the date, else "" (RFC 9110,
    13.1.5)."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")


def range_total(answer: requests.Response) -> int:
    span = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
    return int(span[1]) if span else -1


def _retry_after_s(answer: requests.Response) -> float:
    """Seconds from a Retry-After header, which holds a number or a date; 0 if there is none."""
    value = answer.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    with suppress(ValueError, TypeError):
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    return 0.0


def _cause(error: BaseException) -> str:
    """The innermost reason as one line."""
    while isinstance(inner := getattr(error, "reason", None) or (error.args[0] if error.args else None), BaseException):
        error = inner
    # urllib3 begins with the object at fault: HTTPSConnection(host='example.org', port=443): Failed to resolve ...
    return re.sub(r"^(<[^>]*>|\w+\([^)]*\)): ", "", str(error).splitlines()[0]) if str(error) else type(error).__name__
