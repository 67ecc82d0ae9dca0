"""Lists the content of a source without unpacking: every file in folders, zips, tars, tars of tars and LMDBs, as an
item."""

import itertools
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from experiments.datasets.images import SUFFIXES
from experiments.datasets.items import DEFLATED, FILE, LMDB, SPAN, STORED, Item, open_lmdb
from experiments.datasets.paths import is_hidden, leads_out, printable, suffix_of, walk
from experiments.files import UserError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
ARCHIVES = (".tar", ".zip")
SOURCE_SUFFIXES = (*SUFFIXES, *VIDEO_SUFFIXES, *ARCHIVES, ".mdb")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_KINDS = {zipfile.ZIP_STORED: STORED, zipfile.ZIP_DEFLATED: DEFLATED}


def check_source(path: Path) -> None:
    """Raises UserError if `path` cannot be a source. Fast, because it does not list the source."""
    if not path.exists():
        raise UserError(
            f"source: {str(path)!r} must exist: a folder, a zip, a tar, or an LMDB's folder. Check the spelling, and "
            "that the disk is mounted."
        )
    if path.is_dir() or path.name == "data.mdb" or zipfile.is_zipfile(path):
        return
    if not _is_tar(path):
        if path.name.lower().endswith(_COMPRESSED) or tarfile.is_tarfile(path):
            raise UserError(
                f"source: a tar must not be compressed, because its files are read in place; got {str(path)!r}. "
                "Decompress it (gunzip, bunzip2, unxz, zstd -d), or unpack it and give the folder."
            )
        raise UserError(
            f"source: must be a folder, a zip, a tar, or an LMDB's folder; got {str(path)!r}, which is none of these, "
            "or is truncated. Copy it again, or unpack it and give the folder."
        )


def list_items(path: Path) -> list[Item]:
    """Every visible file of the source, in the order of the names. An archive in a folder or in a tar counts as a
    folder with the archive's name without its suffix.

    Uses about 300 bytes of memory per file. Raises UserError, naming the path and the next step, for a source that is
    missing, of another format, damaged, truncated or encrypted, or that has names that lead out of it, links in a tar,
    or duplicate names.
    """
    check_source(path)
    found = tqdm(_expand(path), desc=f"listing {printable(path.name)}", unit=" files", disable=None)
    items = [item for item in found if not is_hidden(item.name)]
    items.sort(key=attrgetter("name"))
    if twice := [a.name for a, b in itertools.pairwise(items) if a.name == b.name]:
        raise UserError(
            f"source: a name must occur once; got {printable(twice[0])!r} more than once in {str(path)!r} "
            f"({len(twice)} such names). Remove one: perhaps an archive is beside what was unpacked from it."
        )
    return items


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key for names that orders numbers by value: frame 9 before frame 10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def choose(items: Iterable[Item], keep: Callable[[str], bool]) -> tuple[list[Item], Counter[str]]:
    """The items whose names `keep` accepts, and the counts of the others by suffix."""
    kept, others = [], Counter[str]()
    for item in items:
        if keep(item.name):
            kept.append(item)
        else:
            others[suffix_of(item.name)] += 1
    return kept, others


def _expand(path: Path) -> Iterator[Item]:
    if path.name == "data.mdb":
        yield from _list_lmdb(path.parent)
    elif not path.is_dir():
        yield from _list_zip(path, "") if zipfile.is_zipfile(path) else _list_tar(path, "")
    else:
        for name in walk(path):
            file = path / name
            if is_hidden(name) or file.name == "lock.mdb":
                continue
            if file.name == "data.mdb":
                yield from _list_lmdb(file.parent)
            elif suffix_of(name) in ARCHIVES and file.is_file():
                inner = name.rpartition(".")[0] + "/"
                yield from _list_zip(file, inner) if suffix_of(name) == ".zip" else _list_tar(file, inner)
            else:
                yield _file_item(file, name)


def _file_item(file: Path, name: str) -> Item:
    try:
        status = file.stat()
        return Item(name, str(file), FILE, 0, status.st_size, 0, status.st_mtime_ns)
    except OSError:  # a dangling link, which is reported as broken when it is read
        return Item(name, str(file), FILE, 0, 0, 0, 0)


def _list_zip(path: Path, folder: str) -> Iterator[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"Failed to open the zip {str(path)!r}: {error}. Copy or make it again.") from error
    for member in members:
        if member.is_dir():
            continue
        name = _trusted(member.filename, path)
        if member.flag_bits & 1 or member.compress_type not in _KINDS:
            how = "encrypted" if member.flag_bits & 1 else "compressed with a method that is not supported"
            raise UserError(
                f"source: members of a zip must be stored or deflated; got {printable(name)!r} in {str(path)!r}, which "
                f"is {how}. Unpack it yourself and give the folder."
            )
        kind = _KINDS[member.compress_type]
        yield Item(
            folder + name, str(path), kind, member.header_offset, member.compress_size, member.file_size, member.CRC
        )


def _list_tar(path: Path, folder: str) -> Iterator[Item]:
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    with path.open("rb") as file:
        for name, offset, length in _tar_members(file, path, 0, size, folder):
            yield Item(name, str(path), SPAN, offset, length, length, time)


def _tar_members(file: BinaryIO, path: Path, begin: int, end: int, folder: str) -> Iterator[tuple[str, int, int]]:
    """(name, offset, length) of every file in the tar at bytes `begin` to `end` of `file`, and in the tars in it."""
    file.seek(begin)
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (the file is its caller's)
        while (member := archive.next()) is not None and member.offset < end:
            archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
            if member.isdir():
                continue
            name = _trusted(member.name, path)
            if not member.isfile():
                raise UserError(
                    f"source: a tar must hold files and folders only; got {printable(name)!r} in {str(path)!r}, a link "
                    "or a device. Unpack it yourself, look at it, and give the folder."
                )
            if member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{name} is truncated")
            if suffix_of(name) == ".tar":
                stop = member.offset_data + member.size
                inner = f"{folder}{name.rpartition('.')[0]}/"
                yield from _tar_members(file, path, member.offset_data, stop, inner)
            else:
                yield folder + name, member.offset_data, member.size
    except tarfile.TarError as error:
        raise UserError(f"Failed to read the tar {str(path)!r}: {error}. Copy or make it again.") from error


def _list_lmdb(folder: Path) -> Iterator[Item]:
    status = (folder / "data.mdb").stat()
    with open_lmdb(str(folder)).begin() as transaction:
        for key in transaction.cursor().iternext(keys=True, values=False):
            name = key.decode("utf-8", "surrogateescape")
            yield Item(name, str(folder), LMDB, 0, status.st_size, 0, status.st_mtime_ns)


def _trusted(name: str, path: Path) -> str:
    if leads_out(name):
        raise UserError(
            f"source: names in an archive must stay inside it; got {printable(name)!r} in {str(path)!r}. Do not trust "
            "this archive."
        )
    return name.removeprefix("./")


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except (OSError, tarfile.TarError):
        return False
