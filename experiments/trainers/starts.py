"""The files that a start of an official train.py writes: its folder NNNNN-..., snapshots, and their sidecars."""

import pickletools
import re
import zipfile
from functools import lru_cache
from pathlib import Path

from experiments.files import sha256_of
from experiments.trainers.contract import Run

_START = re.compile(r"\d{5}-")


def starts(run: Run) -> list[Path]:
    """The folders of all starts of the training, in order."""
    return sorted(p for p in run.train.glob("*-*") if p.is_dir() and _START.match(p.name))


def start_of(path: Path) -> str:
    """The start of a file or folder: the name NNNNN-... in its path. It does not depend on where the run's folder is
    now."""
    return next((name for name in reversed(path.parts) if _START.match(name)), "")


def is_whole_pickle(path: Path) -> bool:
    """Whether the file is one complete pickle. Reads all of it without executing anything."""
    try:
        with path.open("rb") as file:
            for _ in pickletools.genops(file):
                pass
    except (OSError, ValueError, EOFError, KeyError):
        return False
    return True


def is_whole_file(path: Path) -> bool:
    """`is_whole_pickle`, cached until the file changes, because a runner asks twice a second."""
    facts = path.stat()
    return _is_whole(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _is_whole(path: Path, _size: int, _time_ns: int) -> bool:
    return is_whole_pickle(path)


def kimg_of(snapshot: Path) -> int:
    return int(snapshot.stem.rpartition("-")[2])


def has_state(snapshot: Path | None) -> bool:
    """Whether a complete sidecar with the trainer's state is beside a snapshot (mtm_hosts/resume.py; torch.save's
    zip)."""
    if snapshot is None:
        return True
    return zipfile.is_zipfile(snapshot.with_name(f"training-state-{kimg_of(snapshot):06d}.pt"))


def state_is_of(snapshot: Path) -> bool:
    """Whether the sidecar belongs to this snapshot, and not to an older one of the same name. A kill between writing
    the two files causes such a mismatch."""
    import torch  # imported only to resume a training: the runner itself does not need torch

    path = snapshot.with_name(f"training-state-{kimg_of(snapshot):06d}.pt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return state["pickle"]["size"] == snapshot.stat().st_size and state["pickle"]["sha256"] == sha256_of(snapshot)
    except Exception:  # a damaged file may cause any error
        return False
