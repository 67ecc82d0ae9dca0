"""What we wrote into a checkout, and what we were about to write: one JSON file in the checkout's git directory.

A file's bytes show which of today's concerns it has. The record has what they do not show: which lines are ours after
the patches changed or a user edited the file, and what a killed run was about to write.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from . import fs
from .errors import OverlayError
from .git import Checkout
from .locate import Concerns
from .patchfile import Insertion

_NAME = "mtm-overlay.json"


@dataclass(frozen=True)
class Written:
    """What we inserted into a file: the upstream blob, and every inserted line."""

    base: str
    concerns: Concerns


@dataclass(frozen=True)
class Pending:
    """A file of a run that has not finished: its hash before and after, and what it contains afterwards."""

    before: str
    after: str
    aim: Written


@dataclass
class Record:
    written: dict[str, Written] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)


def load(checkout: Checkout) -> Record | None:
    """None if there is no record: the files' bytes then still tell what they have."""
    try:
        stored = json.loads((checkout.git_dir / _NAME).read_bytes())
        return Record(
            {p: _read(w) for p, w in stored["written"].items()},
            {p: Pending(w["before"], w["after"], _read(w["aim"])) for p, w in stored["pending"].items()},
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save(checkout: Checkout, record: Record) -> None:
    stored = {
        "written": {p: _stored(w) for p, w in record.written.items()},
        "pending": {p: vars(w) | {"aim": _stored(w.aim)} for p, w in record.pending.items()},
    }
    path = checkout.git_dir / _NAME
    fs.discard(path)  # left by a killed run; this run holds the lock
    fs.write_atomic(path, json.dumps(stored, indent=1).encode() + b"\n")


def _stored(written: Written) -> dict[str, Any]:
    # latin-1 stores any bytes in JSON
    concerns = {c: [[i.after, *(n.decode("latin-1") for n in i.lines)] for i in w] for c, w in written.concerns.items()}
    return {"base": written.base, "concerns": concerns}


def _read(stored: dict[str, Any]) -> Written:
    concerns = {
        c: tuple(Insertion(int(after), tuple(n.encode("latin-1") for n in lines)) for after, *lines in insertions)
        for c, insertions in stored["concerns"].items()
    }
    return Written(str(stored["base"]), concerns)


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
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = checkout.folder.name
        text = f"lock: {name} must be written by one run at a time; got another run at work."
        raise OverlayError(f"{text} Wait for it, then run the same command again.") from None
