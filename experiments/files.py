"""Files that are either complete or absent, and readable errors of the file system."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG}
_SETTLED_NS = 1_000_000_000
_ABANDONED_S = 24 * 3600
MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]  # several machines may share a folder


class UserError(ValueError):
    """A mistake that the user can fix; its message says how. The command lines print it without a traceback."""


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it becomes `path` if the block succeeds, and is removed otherwise.

    Raises UserError if the disk is full or the folder cannot be written. Temporary files of killed processes are
    removed on the way in.
    """
    temporary = path.with_name(f".{path.name}.partial-{MACHINE}-{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns errors while writing `path`, such as a full disk or a read-only folder, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path}: the disk is full ({free_text(path)} free); no partial file was left. "
                "Free some space, or choose another place for it."
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise UserError(
                f"{path}: cannot be written ({os.strerror(error.errno)}). Choose a folder that you may write to."
            ) from error
        raise


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a lock file beside `path`, which need not exist, so that one process at a time works on it. If another
    process holds it, calls `waiting` once and waits. Raises UserError if the folder cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def free_text(path: Path) -> str:
    """The free space on the disk that holds `path` (which need not exist yet), as text such as '3.2 GB'."""
    return f"{free_bytes(path) / 1e9:.1f} GB"


def free_bytes(path: Path) -> int:
    """Free space in bytes on the disk that would hold `path`."""
    place = path.absolute()
    while not place.is_dir():
        place = place.parent
    return shutil.disk_usage(place).free


def _remove_abandoned(path: Path) -> None:
    prefix = f".{path.name}.partial-"
    for old in path.parent.iterdir():
        machine, _, pid = old.name.removeprefix(prefix).rpartition("-")
        if not old.name.startswith(prefix) or not pid.isdigit():
            continue
        with suppress(FileNotFoundError):
            # A process on another machine cannot be checked from here, so its file's age decides.
            lives = _alive(int(pid)) if machine in ("", MACHINE) else time.time() - old.stat().st_mtime < _ABANDONED_S
            if not lives:
                old.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256_of(path: Path) -> str:
    """The file's sha256 as 64 hex digits, computed from its bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """The file's sha256, cached beside it in .NAME.sha256 as long as its size, times and inode do not change, so that a
    large file is not read at every start. Raises UserError if it cannot be read."""
    try:
        facts = path.stat()
        identity = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
        memory = path.with_name(f".{path.name}.sha256")
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(memory.read_text(encoding="utf-8"))
            if known["file"] == identity and len(known["sha256"]) == 64:
                return known["sha256"]
        sha256 = sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Restore the file, or remove it.") from error
    # A file that has just changed may change again within the resolution of the file system's clock.
    if time.time_ns() - facts.st_ctime_ns > _SETTLED_NS:
        with suppress(OSError, UserError), atomic_output(memory) as partial:  # a folder may be read-only
            partial.write_text(json.dumps({"file": identity, "sha256": sha256}), encoding="utf-8")
    return sha256
