"""Names and files of a source: listing, safety checks, and reading."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from experiments.files import UserError

MAX_FILE_BYTES = 1 << 29


def printable(name: object) -> str:
    """`name` with line breaks, control characters and undecodable bytes escaped."""
    text = str(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def leads_out(name: str) -> bool:
    """Whether a name in an archive would lead out of the folder into which the archive is unpacked."""
    return bool(name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name))


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that contains it, is hidden or macOS metadata."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def suffix_of(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def read_regular(file: Path) -> bytes:
    """The bytes of a regular file. Other files could block forever (a FIFO) or have no end (a device)."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"has {status.st_size / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f} MB")
        return opened.read()


def walk(root: Path) -> Iterator[str]:
    """Every file below `root`, as a path relative to it. Does not follow a link to a folder that contains the link."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, above = pending.pop()
        try:
            status = os.stat(root / folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        pending.append((f"{folder}{entry.name}/", above | {identity}))
                    else:
                        yield folder + entry.name
        except OSError as error:
            raise UserError(
                f"open_source: every folder of the source must be readable; got {error.strerror} for "
                f"{str(root / folder)!r}. Correct its permissions, or move it elsewhere."
            ) from error
