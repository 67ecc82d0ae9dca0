"""The files of a published data set, wherever they are: in folders, zips, tars (also tars of tars) or LMDBs.

An Item locates the bytes of one file, so that any process can read it independently: nothing is unpacked, and no worker
holds the directory of an archive. experiments.datasets.listing finds the items of a source.
"""

import os
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from experiments.datasets.paths import MAX_FILE_BYTES, read_regular
from experiments.files import UserError

FILE, SPAN, STORED, DEFLATED, LMDB = "file", "span", "stored", "deflated", "lmdb"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member of a zip: signature, lengths of the name and of the extra field


class Item(NamedTuple):
    """One file. `name` is its path in the source, in which an archive counts as a folder named by its stem; in an LMDB
    it is the key.

    `offset` is the position of its bytes (for a member of a zip, of its header) in `file`, `size` their number, and
    `unpacked` their number after unpacking. `stamp` changes with the content: a zip's CRC-32, else a time in ns.
    """

    name: str
    file: str
    kind: str
    offset: int
    size: int
    unpacked: int
    stamp: int


def read_item(item: Item) -> bytes:
    """Reads the bytes of an item. Raises ValueError or OSError, with the reason, if they cannot be read."""
    if max(item.unpacked, 0 if item.kind in (FILE, LMDB) else item.size) > MAX_FILE_BYTES:
        raise ValueError(f"has {item.unpacked / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f} MB: unpack it")
    if item.kind == FILE:
        return read_regular(Path(item.file))
    if item.kind == LMDB:
        return _read_lmdb(item)
    if item.kind == SPAN:
        return _read_at(item.file, item.offset, item.size)
    return _read_zipped(item)


def _read_zipped(item: Item) -> bytes:
    signature, *lengths = _LOCAL_HEADER.unpack(_read_at(item.file, item.offset, _LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError("the zip is damaged: no member begins at the position that its directory states")
    data = _read_at(item.file, item.offset + _LOCAL_HEADER.size + sum(lengths), item.size)
    if item.kind == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, item.unpacked + 1)
        except zlib.error as error:
            raise ValueError(f"the zip is damaged: {error}") from error
    if len(data) != item.unpacked or zlib.crc32(data) != item.stamp:
        raise ValueError("the zip is damaged: the checksum is wrong")
    return data


def _read_at(file: str, offset: int, size: int) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        data = os.pread(opened.fileno(), size, offset)  # sizes are below 2 GB, the limit of one call
    if len(data) != size:
        raise ValueError(f"{Path(file).name} is truncated")
    return data


def _read_lmdb(item: Item) -> bytes:
    with open_lmdb(item.file).begin() as transaction:
        data = transaction.get(item.name.encode("utf-8", "surrogateescape"))
    if data is None:
        raise ValueError("the key no longer exists")
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"has {len(data) / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f} MB")
    return data


@lru_cache(maxsize=2)
def open_lmdb(folder: str) -> Any:
    """The read-only LMDB environment of a folder with data.mdb, for this process. Raises UserError if it cannot be
    opened or is truncated: reading the missing part would kill the process (SIGBUS)."""
    try:
        import lmdb
    except ImportError as error:
        raise UserError(f"{folder}: reading an LMDB needs lmdb: pip install -r requirements-dev.txt") from error
    try:
        environment = lmdb.open(folder, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise UserError(f"Failed to open the LMDB {folder!r}: {error}. Copy or unpack it again.") from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (Path(folder) / "data.mdb").stat().st_size
    if size < needed:
        raise UserError(
            f"Failed to open the LMDB {folder!r}: data.mdb is truncated ({size} of {needed} bytes). "
            "Copy or unpack it again."
        )
    return environment
