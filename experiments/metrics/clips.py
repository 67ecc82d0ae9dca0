"""Clips to measure, by StyleGAN-V's protocol for FVD. A source is a folder or zip of videos: folders of frames, or
video files.

Each real video gives one clip of consecutive frames, at a position drawn from the seed; each generated video gives its
first frames. Videos that are shorter than a clip are skipped and counted. The first `count` videos, in the order of
their names, that are long enough are used, as in StyleGAN-V's calc_metrics.py.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.datasets import listing
from experiments.datasets.decode import count_frames, video_frames
from experiments.datasets.images import SUFFIXES, decode_rgb, printable
from experiments.datasets.paths import is_hidden, read_regular, suffix_of, walk
from experiments.datasets.zips import ContentHash
from experiments.files import UserError
from experiments.metrics.sources import MAX_MPX, FileSamples, ahead, files_sha256, size_text, sizes_fact

VIDEO_SUFFIXES = (*listing.VIDEO_SUFFIXES, ".mpg", ".mpeg")


class Clips(FileSamples):
    """One clip [3, `frames`, H, W] per video, at most `count`. `first`: take the first frames of each video, not a
    random position. Raises UserError if there are no videos, fewer than 2 are long enough, or a frame cannot be
    read."""

    unit = "clip"

    def __init__(
        self, path: Path, role: str, frames: int, count: int, seed: int = 0, workers: int = 2, first: bool = False
    ) -> None:
        self.path, self.role, self.frames, self.count = path, role, frames, count
        self._seed, self._workers, self._first = seed, workers, first
        self.files = _Files(path)
        self.videos = self.files.videos()
        self._found: dict[str, Any] = {}
        if not self.videos:
            raise UserError(
                f"metrics: {path} must hold videos, as folders of frames or files {' '.join(VIDEO_SUFFIXES)}; got "
                "none. Give the folder or zip that holds them."
            )

    def __len__(self) -> int:
        return min(self.count, len(self.videos))

    def batches(self, size: int) -> Iterator[list[Tensor]]:
        content, sizes, taken, short, batch = ContentHash(), Counter[str](), 0, 0, []
        for clip in ahead(enumerate(self.videos), self._read, self._workers, self._workers):
            if taken == self.count:
                break
            if clip is None:
                short += 1
                continue
            content.begin_clip()
            for frame in clip:
                content.add(frame)
            sizes[size_text(clip)] += 1
            taken += 1
            batch.append(torch.from_numpy(clip).permute(3, 0, 1, 2))
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
        if taken < 2:
            raise UserError(
                f"metrics: {self.path} must hold at least 2 videos of {self.frames} frames or more; got {taken}, and "
                f"{short} shorter ones. Give longer videos, or use fvd16."
            )
        self._found = {f"{self.role}_px": sizes_fact(sizes), f"{self.role}_too_short": short}
        if self.role == "real":
            self._found |= {"clips_sha256": content.hexdigest(None), "clip_seed": self._seed}

    def facts(self) -> dict[str, Any]:
        assert self._found, "the clips must be read first"
        return self._found

    def identity(self) -> dict[str, Any]:
        files = files_sha256(self.path, self.files.names)
        return {"files": files, "frames": self.frames, "count": self.count, "seed": self._seed, "first": self._first}

    def _read(self, numbered: tuple[int, tuple[str, list[str]]]) -> np.ndarray | None:
        """uint8 [T, H, W, 3] of one video; None if it is too short."""
        index, (name, frames) = numbered
        try:
            if not frames:
                return self._read_file(index, name)
            if len(frames) < self.frames:
                return None
            start = self._start(index, len(frames))
            some = frames[start : start + self.frames]
            read = [np.asarray(decode_rgb(self.files.read(frame), MAX_MPX)) for frame in some]
            return np.stack(read)
        except (ValueError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise UserError(
                f"metrics: every video must be readable; got {printable(self.path / name)}: {printable(error)}. "
                "Fix or remove it."
            ) from error

    def _start(self, index: int, length: int) -> int:
        if self._first:
            return 0
        return int(np.random.default_rng([self._seed, index]).integers(length - self.frames + 1))

    def _read_file(self, index: int, name: str) -> np.ndarray | None:
        length = count_frames(self.files.video(name))
        if length < self.frames:
            return None
        start = self._start(index, length)
        with closing(video_frames(self.files.video(name), upright=True)) as frames:
            kept = [np.asarray(frame) for frame in islice(frames, start, start + self.frames)]
        if len(kept) < self.frames:
            raise ValueError(f"it ends after {start + len(kept)} of {length} frames")
        return np.stack(kept)


class _Files:
    """The files of a folder or zip that are frames or videos."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            found = list(walk(path))
        elif zipfile.is_zipfile(path):
            self._zip = zipfile.ZipFile(path)
            found = [info.filename for info in self._zip.infolist() if not info.is_dir()]
        elif path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            raise UserError(f"metrics: {path} is one video; expected a folder or zip of them. Give its folder.")
        else:
            raise UserError(f"metrics: videos must be in a folder or a zip; got {str(path)!r}, which is neither.")
        known = (*SUFFIXES, *VIDEO_SUFFIXES)
        self.names = sorted(name for name in found if not is_hidden(name) and suffix_of(name) in known)

    def videos(self) -> list[tuple[str, list[str]]]:
        """(name, frames) of each video, in the order of the names; `frames` is empty for a video file."""
        videos: dict[str, list[str]] = {}
        for name in self.names:
            if suffix_of(name) in VIDEO_SUFFIXES:
                videos[name] = []
            else:
                videos.setdefault(name.rpartition("/")[0], []).append(name)
        return [(name, sorted(videos[name], key=listing.natural)) for name in sorted(videos)]

    def read(self, name: str) -> bytes:
        return self._zip.read(name) if self._zip else read_regular(self.path / name)

    def video(self, name: str) -> str | io.BytesIO:
        """The video for PyAV: a path, or the bytes of a member of a zip."""
        if self._zip:
            return io.BytesIO(self.read(name))
        if not (self.path / name).is_file():  # a FIFO would block forever
            raise ValueError("not a regular file")
        return str(self.path / name)
