"""What we wrote into a checkout, and what we were about to write: one JSON file in the checkout's git directory.

Which concerns a file has is read off its bytes. The record is for what bytes cannot tell: that an unknown file is our
own work from an older version of the patches (so nothing of the user's is in it), and where a killed run was going.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

from . import fs
from .errors import OverlayError
from .git import Checkout

try:
    import fcntl
except ImportError:  # Windows: no advisory locks; two runs at once are the user's to avoid
    fcntl = None  # type: ignore[assignment]

_NAME = "mtm-overlay.json"


@dataclass(frozen=True)
class Written:
    blob: str
    concerns: tuple[str, ...]


@dataclass(frozen=True)
class Pending:
    """A file of a run that has not finished: its hash before, its hash after, the concerns it is to have then."""

    before: str
    after: str
    concerns: tuple[str, ...]


@dataclass
class Record:
    written: dict[str, Written] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)

    def ours(self, path: str) -> set[str]:
        """Hashes that this file can have without holding anything but upstream's lines and ours."""
        hashes = {self.written[path].blob} if path in self.written else set()
        if path in self.pending:
            hashes |= {self.pending[path].before, self.pending[path].after}
        return hashes


def load(checkout: Checkout) -> Record:
    try:
        stored = json.loads((checkout.git_dir / _NAME).read_bytes())
        return Record(
            {p: Written(w["blob"], tuple(w["concerns"])) for p, w in stored["written"].items()},
            {p: Pending(w["before"], w["after"], tuple(w["concerns"])) for p, w in stored["pending"].items()},
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return Record()  # the record only helps: without it, files are still known by their bytes


def save(checkout: Checkout, record: Record) -> None:
    path = checkout.git_dir / _NAME
    fs.discard(path)  # what a killed run left; the lock is held
    fs.write_atomic(path, json.dumps(asdict(record), indent=1, sort_keys=True).encode() + b"\n")


@contextmanager
def locked(checkouts: list[Checkout]) -> Iterator[None]:
    """One writing run at a time. The lock dies with its process, so a killed run leaves none behind."""
    handles: list[int] = []
    try:
        for checkout in checkouts:
            handles.append(os.open(checkout.git_dir / "mtm-overlay.lock", os.O_RDWR | os.O_CREAT, 0o644))
            _lock(handles[-1], checkout)
        yield
    finally:
        for handle in handles:
            with suppress(OSError):
                os.close(handle)


def _lock(handle: int, checkout: Checkout) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = checkout.folder.name
        text = f"lock: {name} must have one writing run at a time; got another at work. Wait for it, then repeat."
        raise OverlayError(text) from None
