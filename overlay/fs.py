"""Replaces files atomically. Everything that changes a disk goes through `step`, so that tests can kill or fail it."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_SUFFIX = ".mtm-overlay-new"


def step(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def staged(target: Path) -> Path:
    """Where the new bytes of `target` are staged: beside it, so that replacing it is a rename on one file system."""
    return target.with_name(target.name + _SUFFIX)


def stage(target: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        handle = step(os.open, staged(target), flags, 0o600)
    except FileExistsError:  # left by a killed run whose record is gone, too; this run holds the lock
        discard(target)
        handle = step(os.open, staged(target), flags, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[step(os.write, handle, rest) :]
        step(os.fsync, handle)
    finally:
        os.close(handle)
    step(os.chmod, staged(target), mode)


def promote(target: Path) -> None:
    step(os.replace, staged(target), target)
    _sync_folder(target.parent)


def discard(target: Path) -> None:
    with suppress(FileNotFoundError):
        step(os.unlink, staged(target))


def write_atomic(target: Path, data: bytes, mode: int = 0o644) -> None:
    try:
        stage(target, data, mode)
        promote(target)
    except OSError:
        with suppress(OSError):
            discard(target)
        raise


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut; some file systems refuse to sync a folder.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
