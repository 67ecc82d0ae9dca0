"""Downloads a file completely and verified, or not at all.

Partial content is kept beside the file, even if the process is killed, and the next call requests only the rest. If two
processes want the same file, one waits for the other. A file that fails verification is deleted.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from experiments import web
from experiments.files import UserError, atomic_output, disk_errors, free_bytes, locked, sha256_of
from experiments.web import AttemptError, DownloadError

_PROGRESS_BYTES = 1 << 20  # an attempt that fetches this much is not a failure
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Download:
    """What to fetch: `accepts(sha256)` decides whether the bytes are right; `size_bytes` is 0 if unknown. The download
    fails after `attempts` attempts in a row without progress, with pauses of pause_s, 2 pause_s, 4 pause_s... between
    them."""

    url: str
    accepts: Callable[[str], bool]
    label: str = ""
    size_bytes: int = 0
    attempts: int = 6
    pause_s: float = 1.0
    timeout_s: tuple[float, float] = (10.0, 60.0)  # for connecting, and between two reads

    def to(self, dest: Path) -> str:
        """Fetches into `dest` and returns its sha256; a file at `dest` is replaced at the end.

        Raises DownloadError if the server or the network fails or the bytes are not accepted, and UserError for disk
        errors. If another process has fetched the file in the meantime, nothing is fetched.
        """
        with locked(dest, waiting=lambda: tqdm.write(f"{dest.name}: another process is fetching it; waiting for it.")):
            if dest.is_file() and self.accepts(sha256 := sha256_of(dest)):
                return sha256
            partial = Partial.at(dest, self.url)
            try:
                with disk_errors(dest), web.open_session() as session, self._bar(partial) as bar:
                    sha256 = _Transfer(self, partial, session, bar).run()
                    os.replace(partial.path, dest)
            except UserError as error:
                if not isinstance(error, DownloadError) or not partial.size:  # on a full disk this frees space
                    partial.remove()
                raise
            partial.remove()
        return sha256

    def _bar(self, partial: "Partial") -> Any:
        return tqdm(
            desc=self.label or urlsplit(self.url).path.rsplit("/", 1)[-1],
            total=self.size_bytes or None,
            initial=partial.size,
            unit="B",
            unit_scale=True,
            delay=0.5,
            mininterval=0.2 if os.isatty(2) else 30.0,
        )


@dataclass
class Partial:
    """The part of a file that has been fetched, and the version of the file: the server's ETag or date."""

    path: Path
    notes: Path
    url: str
    validator: str = ""

    @classmethod
    def at(cls, dest: Path, url: str) -> "Partial":
        """The partial file of `dest` on the disk; empty if it came from another URL."""
        found = cls(dest.with_name(f".{dest.name}.partial"), dest.with_name(f".{dest.name}.partial.json"), url)
        try:
            notes = json.loads(found.notes.read_text(encoding="utf-8"))
            if notes["url"] != url:
                raise ValueError(notes["url"])
            found.validator = str(notes["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            found.remove()
        return found

    @property
    def size(self) -> int:
        with suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    def begin(self, validator: str) -> None:
        """Starts again from 0 bytes, for this version of the file."""
        self.remove()
        self.validator = validator
        with atomic_output(self.notes) as notes:
            notes.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")

    def remove(self) -> None:
        self.validator = ""
        for path in (self.path, self.notes):
            path.unlink(missing_ok=True)


@dataclass
class _Transfer:
    what: Download
    partial: Partial
    session: requests.Session
    bar: Any
    joined: bool = field(default=False, init=False)  # the bytes come from several responses

    def run(self) -> str:
        """Fetches until the bytes are accepted; returns their sha256."""
        self.joined = self.partial.size > 0
        for once_more in (True, False):
            self._complete()
            with self.partial.path.open("rb+") as file:
                os.fsync(file.fileno())
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if self.what.accepts(sha256):
                return sha256
            got = f"{self.partial.size} bytes with sha256 {sha256}"
            self.partial.remove()
            if not (self.joined and once_more):  # retry: the parts may come from two versions of the file
                break
        raise DownloadError(f"the server sent other bytes than the published ones: {got}")

    def _complete(self) -> None:
        """Tries until the file is complete. An attempt that makes progress resets the count of failures."""
        failures, most = 0, self.partial.size
        while not (self.what.size_bytes and self.partial.size == self.what.size_bytes):
            try:
                self._attempt()
                return
            except AttemptError as failed:
                if self.what.size_bytes and self.partial.size == self.what.size_bytes:
                    return
                failures = failures + 1 if self.partial.size < most + _PROGRESS_BYTES else 1
                most = max(most, self.partial.size)
                if failures >= min(self.what.attempts, failed.attempts):
                    tried = f" ({failures} attempts)" if failures > 1 else ""
                    raise DownloadError(f"{failed}{tried}", failed.offline) from failed
                time.sleep(min(max(failed.wait_s, self.what.pause_s * 2 ** (failures - 1)), _LONGEST_WAIT_S))

    def _attempt(self) -> None:
        """Requests the rest once and appends it to the partial file. Raises AttemptError or DownloadError."""
        offset = self.partial.size
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.partial.validator:
                headers["If-Range"] = self.partial.validator
        with web.get(self.session, self.what.url, headers, self.what.timeout_s) as answer:
            if answer.status_code == 416 and web.range_total(answer) == offset:
                return
            if answer.status_code == 200:
                self.joined = False
                self.partial.begin(web.validator(answer))
            elif answer.status_code == 206 and offset and self._continues(answer, offset):
                self.joined = True
            else:
                self.partial.remove()
                raise AttemptError("the server cannot continue the file where it stopped")
            self._write(answer)

    def _continues(self, answer: requests.Response, offset: int) -> bool:
        """Whether this response continues where the partial file ends, in the same version of the file."""
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        now, then = web.validator(answer), self.partial.validator
        return span is not None and int(span[1]) == offset and (not now or not then or now == then)

    def _write(self, answer: requests.Response) -> None:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError("the server sent the file compressed, which was not requested")
        size, whole = self.partial.size, self.what.size_bytes
        self._need(answer, size)
        self.bar.n = size
        with self.partial.path.open("ab") as file:
            while data := web.read(answer):
                if size == 0:
                    web.refuse_pages(answer, data)
                size += len(data)
                if size > whole > 0:
                    self.partial.remove()
                    raise DownloadError(f"the server sent more than the {whole} bytes of the file")
                file.write(data)
                file.flush()  # keeps the received bytes if this process is killed
                self.bar.update(len(data))
        if size < whole:
            raise AttemptError(f"the server ended the file after {size} of {whole} bytes", attempts=3)

    def _need(self, answer: requests.Response, size: int) -> None:
        """Raises DownloadError if the disk has too little space for the rest."""
        length = answer.headers.get("Content-Length", "")
        left = self.what.size_bytes - size if self.what.size_bytes else int(length) if length.isdigit() else 0
        free = free_bytes(self.partial.path.parent)
        if left > free:
            raise DownloadError(
                f"the disk is full: {left / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free. Free some space, or "
                "choose another folder: MTM_WEIGHTS=..."
            )
