"""The resumable stage of making a data set: turns shards of its source into parts in a work folder, on all cores.

A shard is a sequence of items that are decoded together; its items depend on the source only. Its part is two files:
the frames as PNGs, one after another, and a note that describes them. The note is written last and holds a stamp of
everything that decides the frames. A part with the right stamp is not made again, so a killed build continues where it
stopped. The number of cores affects the time only.
"""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.datasets.items import Item
from experiments.datasets.paths import printable
from experiments.datasets.zips import Encoded, encode
from experiments.files import UserError, free_text

Decode = Callable[[Item], Iterator[np.ndarray | Encoded]]
_AHEAD = 2  # shards queued per process


class Shard(NamedTuple):
    """Items that form one part. `name` is for messages."""

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Part:
    """The result of a shard: the total number of frames, and (name, reason) of its broken items."""

    path: Path
    nframes: int
    broken: list[tuple[str, str]]

    def items(self) -> list[tuple[str, int]]:
        """(name, number of frames) of each sound item, in order."""
        return [(name, len(frames)) for name, frames in self._note()["entries"]]

    def frames(self) -> Iterator[Encoded]:
        """Every frame, in order, with one at a time in memory. Raises UserError after the last one if the part has been
        damaged since it was made."""
        note, crc = self._note(), 0
        with self.path.open("rb") as file:
            for _, frames in note["entries"]:
                for length, digest, facts in frames:
                    png = file.read(length)
                    crc = zlib.crc32(png, crc)
                    yield Encoded(png, bytes.fromhex(digest), facts)
        if crc != note["crc"]:
            _note_of(self.path).unlink(missing_ok=True)
            raise UserError(f"{self.path}: damaged since it was made. Run the same command again to make it anew.")

    def _note(self) -> dict[str, Any]:
        return json.loads(_note_of(self.path).read_text(encoding="utf-8"))


def make_parts(
    shards: Sequence[Shard], decode: Decode, recipe_stamp: str, work: Path, processes: int, title: str, unit: str
) -> list[Part]:
    """The parts of all shards. Makes missing ones in `work`, with `processes` processes.

    `recipe_stamp` identifies everything that decides a part besides its items. Raises UserError if a process dies.
    """
    paths = [work / f"{number:06d}.frames" for number in range(len(shards))]
    stamps = [_stamp(shard, recipe_stamp) for shard in shards]
    parts = [_ready(path, stamp) for path, stamp in zip(paths, stamps, strict=True)]
    missing = [number for number, part in enumerate(parts) if part is None]
    done = sum(len(shard.items) for shard, part in zip(shards, parts, strict=True) if part is not None)
    total = sum(len(shard.items) for shard in shards)
    bar = tqdm(desc=title, unit=unit, total=total, initial=done, disable=None)
    if done:
        tqdm.write(f"Resuming: {done} of {total} {unit.strip()} are decoded already, in {work}.", file=sys.stderr)
    with bar:
        jobs = ((number, (shards[number], decode, paths[number], stamps[number])) for number in missing)
        for number, part in _run(jobs, min(processes, len(missing)), shards):
            parts[number] = part
            bar.update(len(shards[number].items))
    return [part for part in parts if part is not None]


@contextmanager
def work_folder(work: Path) -> Iterator[Path]:
    """Locks the folder of the parts for this process. Raises UserError if another process uses it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{work}: another process is making this data set. Wait for it, or choose another DEST."
            ) from error
        yield work


def _run(jobs: Iterator[tuple[int, tuple]], processes: int, shards: Sequence[Shard]) -> Iterator[tuple[int, Part]]:
    """Makes parts, and yields them in the order of completion."""
    if processes <= 1:
        yield from ((number, _make_part(*job)) for number, job in jobs)
        return
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker)
    running: dict[Future, int] = {}
    try:
        while True:
            while len(running) < _AHEAD * processes and (job := next(jobs, None)):
                running[pool.submit(_make_part, *job[1])] = job[0]
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running[future]
                yield number, future.result()
                del running[future]
    except BrokenProcessPool as error:
        names = ", ".join(printable(shards[number].name) for number in sorted(running.values()))
        raise UserError(
            "A decoding process died: it ran out of memory, or a file crashed the decoder. The processes were reading "
            f"{names}. Run the same command again to resume, with --processes 1 to see which."
        ) from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()  # finishing a video may take minutes, and the result would not be used
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends SIGINT to all processes; the parent ends this one
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()  # also returns if the parent was killed
    os._exit(1)


def _make_part(shard: Shard, decode: Decode, path: Path, stamp: str) -> Part:
    entries: list[tuple[str, list[tuple[int, str, Any]]]] = []
    broken: list[tuple[str, str]] = []
    crc = 0
    with _put_in_place(path) as file:
        for item in shard.items:
            begin, before, frames = file.tell(), crc, []
            for image in _encoded(item, decode, broken):
                file.write(image.png)
                frames.append((len(image.png), image.digest.hex(), image.facts))
                crc = zlib.crc32(image.png, crc)
            if broken and broken[-1][0] == item.name:  # drops the frames of a video before the broken one
                file.seek(begin)
                file.truncate()
                crc = before
            else:
                entries.append((item.name, frames))
        size = file.tell()
    nframes = sum(len(frames) for _, frames in entries)
    note = {"stamp": stamp, "nframes": nframes, "bytes": size, "crc": crc, "broken": broken, "entries": entries}
    with _put_in_place(_note_of(path)) as file:
        file.write(json.dumps(note).encode())
    return Part(path, nframes, broken)


def _encoded(item: Item, decode: Decode, broken: list[tuple[str, str]]) -> Iterator[Encoded]:
    frames = decode(item)
    while True:
        try:
            pixels = next(frames, None)
        except UserError:
            raise
        except (ValueError, OSError) as error:
            broken.append((item.name, str(error)))
            return
        if pixels is None:
            return
        yield pixels if isinstance(pixels, Encoded) else encode(pixels)


@contextmanager
def _put_in_place(path: Path) -> Iterator[BinaryIO]:
    """A file that appears, complete, only if the block succeeds. It is not synced to the disk, because the checksum
    reveals damage by a power cut."""
    temporary = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path.parent}: the disk is full ({free_text(path)} free); what is decoded is kept there. Free some "
                "space, and run the same command again to resume."
            ) from error
        raise


def _ready(path: Path, stamp: str) -> Part | None:
    """The part, if it is complete, has the right stamp, and has no broken items, which may have been fixed since; else
    None."""
    try:
        note: dict[str, Any] = json.loads(_note_of(path).read_text(encoding="utf-8"))
        whole = path.stat().st_size == note["bytes"]
        return Part(path, note["nframes"], []) if note["stamp"] == stamp and whole and not note["broken"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing, truncated or of another version


def _note_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _stamp(shard: Shard, recipe_stamp: str) -> str:
    facts = [(item.name, item.kind, item.size, item.stamp) for item in shard.items]
    return hashlib.sha256(json.dumps([recipe_stamp, facts]).encode()).hexdigest()
