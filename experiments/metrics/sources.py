"""Images to measure, from a folder or zip, decoded by threads ahead of the network."""

from __future__ import annotations

import hashlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import torch
from torch import Tensor

from experiments.datasets.images import Source, decode_rgb, open_source, printable
from experiments.datasets.zips import ContentHash
from experiments.files import UserError, file_sha256

MAX_MPX = 100.0
AHEAD = 2  # batches decoded in advance

Item = TypeVar("Item")
Result = TypeVar("Result")


class Samples(ABC):
    """The samples of which features are computed: images or clips. `role` is "real" or "generated"; `unit` is the name
    of one sample."""

    role: str
    unit = "img"

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples; for clips an upper bound until all are read."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[list[Tensor]]:
        """Lists of up to `size` uint8 tensors, [3, H, W] or [3, T, H, W], of any sizes, in a fixed order."""

    def share(self, size: int, rank: int, ranks: int) -> Iterator[list[Tensor]]:
        """The samples of one rank, every `ranks`th from `rank` on, in batches of up to `size`. Every rank decodes all
        files, for the hash of their content, but its network processes only its own samples."""
        for batch in self.batches(size * ranks):
            if mine := batch[rank::ranks]:
                yield mine

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Facts that identify the samples, for the fingerprint. Available once all are read."""


class FileSamples(Samples):
    """Samples from files, whose statistics can be cached (experiments.metrics.cache)."""

    path: Path

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain values that identify the samples, known before they are decoded."""


class ImageFiles(FileSamples):
    """The images of a folder (any nesting) or a zip, in the order of their names. They may have any sizes, because the
    extractor resizes them.

    Args:
        path: a source for experiments.datasets.images.open_source.
        nimg: use at most this many images, drawn at random from `seed`; all if None.
        workers: number of decoding threads.
        skip_broken: skip and count images that cannot be read; otherwise the first one is an error.

    Raises UserError, naming the path or the image.
    """

    def __init__(
        self, path: Path, role: str, nimg: int | None = None, seed: int = 0, workers: int = 2, skip_broken: bool = False
    ) -> None:
        self.path, self.role, self._workers, self.skip_broken = path, role, workers, skip_broken
        self.source = open_source(path)
        self._chosen = chosen(self.source.names, nimg, seed)
        self._drawn = {f"{role}_seed": seed} if len(self._chosen) < len(self.source.names) else {}
        self._found: dict[str, Any] = {}
        if len(self._chosen) < 2:
            raise UserError(f"metrics: {path} must hold at least 2 images; got {len(self._chosen)}. Give more images.")

    def __len__(self) -> int:
        return len(self._chosen)

    def batches(self, size: int) -> Iterator[list[Tensor]]:
        content, sizes, broken, batch = ContentHash(), Counter[str](), 0, []
        for name, image in zip(
            self._chosen, ahead(self._chosen, self._decode, self._workers, AHEAD * size), strict=True
        ):
            if isinstance(image, Exception):
                broken += 1
                self._refuse(name, image)
                continue
            content.add(image)
            sizes[size_text(image)] += 1
            batch.append(to_tensor(image))
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
        if sizes.total() < 2:
            raise UserError(
                f"metrics: {self.path} must hold at least 2 images that can be read; got {sizes.total()}, and {broken} "
                "broken ones. Give more images."
            )
        self._note(content, sizes, broken)

    @property
    def drawn(self) -> dict[str, Any]:
        """The seed with which images were drawn; empty if all are used."""
        return self._drawn

    def facts(self) -> dict[str, Any]:
        assert self._found, "the images must be read first"
        return self._found

    def _note(self, content: ContentHash, sizes: Counter[str], broken: int) -> None:
        found: dict[str, Any] = {f"{self.role}_px": sizes_fact(sizes), **self._drawn}
        if broken:
            found[f"{self.role}_broken"] = broken
        if self.role == "real":
            found["data_sha256"] = content.hexdigest(labels_of(self.source, self._chosen))
        self._found = found

    def _decode(self, name: str) -> np.ndarray | Exception:
        try:
            return np.asarray(decode_rgb(self.source.read(name), MAX_MPX))
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            return error

    def _refuse(self, name: str, error: Exception) -> None:
        if not self.skip_broken:
            raise UserError(
                f"metrics: every image must be readable; got {printable(self.path / name)}: {printable(error)}. "
                "Fix or remove it, or leave such images out: --skip-broken."
            )

    def identity(self) -> dict[str, Any]:
        """See FileSamples. Labels have a hash of their own, because a folder's dataset.json is not an image."""
        return {
            "files": files_sha256(self.path, self.source.names),
            "chosen": hashlib.sha256("\n".join(self._chosen).encode("utf-8", "surrogateescape")).hexdigest(),
            "labels": hashlib.sha256(json.dumps(labels_of(self.source, self._chosen)).encode()).hexdigest(),
            "drawn": self._drawn,
            "skip_broken": self.skip_broken,
            "decoder": f"Pillow {PIL.__version__}",
        }


def chosen(names: list[str], count: int | None, seed: int) -> list[str]:
    """All names, or `count` of them drawn with `seed`, in the original order."""
    if count is None or count >= len(names):
        return names
    index = np.random.default_rng(seed).choice(len(names), count, replace=False)
    return [names[i] for i in sorted(index)]


def labels_of(source: Source, names: list[str]) -> list[list]:
    return [[name, source.labels[name]] for name in names if name in source.labels]


def to_tensor(image: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] to [3, H, W]."""
    return torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)


def size_text(image: np.ndarray) -> str:
    height, width = image.shape[-3:-1]
    return str(width) if width == height else f"{width} x {height}"


def sizes_fact(sizes: Counter[str]) -> str:
    """The size of the images in px; if they have several sizes, their number and the commonest."""
    return next(iter(sizes)) if len(sizes) == 1 else f"{len(sizes)} sizes, most often {sizes.most_common(1)[0][0]}"


def files_sha256(path: Path, names: list[str]) -> str:
    """The hash of the data: for a zip that of the file, cached beside it; for a folder that of the names and the bytes
    of all files, which are read at every call."""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + _sha256(path / name))
    return digest.hexdigest()


def _sha256(file: Path) -> bytes:
    """The hash of a file's bytes; empty if it cannot be read, which is reported when the file is decoded."""
    try:
        if not file.is_file():  # a FIFO would block forever
            return b""
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return b""


def ahead(items: Iterable[Item], function: Callable[[Item], Result], workers: int, window: int) -> Iterator[Result]:
    """function(item) for each item, in order, computed by threads with at most `window` results in advance."""
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
